#!/usr/bin/env bash
# cluster.sh up|down|status|env|conf|logs|node-crash NAME|slurmd-kill NAME|node-start NAME|ctld-stop|ctld-start
# A real Slurm cluster of N virtual nodes on this one machine, as root, without systemd. On the first half of the nodes
# partition low, which is preempted and requeued, and high, which preempts it; on the others calm, the default, where
# nobody is disturbed.
#
#   LMRC_SLURM_STATE   state dir               (default ${TMPDIR:-/tmp}/lmrc-slurm)
#   LMRC_SLURM_NODES   number of nodes         (default 8; names n1..nN)
#   LMRC_SLURM_CPUS    CPUs declared per node  (default 96; may exceed the real count, nothing is bound or limited)
#   LMRC_SLURM_MEM     MiB declared per node   (default 1000000; same)
#   LMRC_SLURM_FEATURES  node features for --constraint (default none)
#   LMRC_SLURM_GPUS    fake GPUs per node      (default 8)
#   LMRC_SLURM_ACCT    dbd | none              (default dbd: slurmdbd + private MariaDB; sacct works)
#   LMRC_SLURM_PORT    base TCP port           (default 16800; uses base..base+50, loopback only)
#   LMRC_SLURM_GRACE   preemption grace, s     (default 10)
#   LMRC_SLURM_USER_SIGNAL  1: a preempted job with --signal gets that signal at once (submitit needs it);
#                    0: Slurm's default, only SIGCONT and SIGTERM (default 1)
#   LMRC_SLURM_CRED_EXPIRE  seconds that a requeued job waits (default 5; Slurm's own 120): the life of the
#                    credential that a job's start carries to its nodes; shorter than a start takes would lose it
#   LMRC_SLURM_MAX_ARRAY  the site's MaxArraySize (default 1001)
#   LMRC_SLURM_JOB_REQUEUE  the site's JobRequeue (default 1)
#   LMRC_SLURM_ADDRS   same: every node is 127.0.0.1, all daemons and srun listen on loopback only (default)
#                    distinct: node i is 127.0.1.i, so that socket.getfqdn() gives nI instead of localhost,
#                    but then slurmd and srun must listen on 0.0.0.0 (munge-authenticated)
#   LMRC_SLURM_LINK_ETC=1  also link /etc/slurm/slurm.conf to the generated file
#   LMRC_SLURM_KEEP=1  `down` keeps job/accounting state for the next `up`
#
# Use:  cluster.sh up && eval "$(cluster.sh env)" && srun -N2 hostname
set -euo pipefail

STATE=${LMRC_SLURM_STATE:-${TMPDIR:-/tmp}/lmrc-slurm}
NODES=${LMRC_SLURM_NODES:-8}
CPUS=${LMRC_SLURM_CPUS:-96}
MEM=${LMRC_SLURM_MEM:-1000000}
FEATURES=${LMRC_SLURM_FEATURES:-}
USER_SIGNAL=${LMRC_SLURM_USER_SIGNAL:-1}
GPUS=${LMRC_SLURM_GPUS:-8}
ACCT=${LMRC_SLURM_ACCT:-dbd}
PORT=${LMRC_SLURM_PORT:-16800}
GRACE=${LMRC_SLURM_GRACE:-10}
ADDRS=${LMRC_SLURM_ADDRS:-same}
CRED_EXPIRE=${LMRC_SLURM_CRED_EXPIRE:-5}
ARRAY=${LMRC_SLURM_MAX_ARRAY:-1001}
JOB_REQUEUE=${LMRC_SLURM_JOB_REQUEUE:-1}
HOST=$(hostname -s)
CLUSTER=lab
P_CTLD=$((PORT+17)) P_DBD=$((PORT+19)) P_SQL=$((PORT+6))   # node i listens on PORT+20+i
MARK="# lmrc-slurm:$STATE"

say()  { echo "[lmrc-slurm] $*" >&2; }
die()  { say "ERROR: $*"; exit 1; }
now()  { date +%s.%N; }
since(){ awk -v a="$1" -v b="$(now)" 'BEGIN{printf "%.1f", b-a}'; }

# pidfile PROG -> 0 if that pid is alive and is really PROG (pid numbers get reused)
alive() {
  local pid; [ -s "$1" ] || return 1; pid=$(tr -dc 0-9 <"$1") || return 1; [ -n "$pid" ] || return 1
  [ -d "/proc/$pid" ] && tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -q -- "$2"
}
stop() { # pidfile PROG [signal] [seconds]
  alive "$1" "$2" || { rm -f "$1"; return 0; }
  local pid t
  # The daemon may end by itself meanwhile, and takes its pid file along.
  pid=$(tr -dc 0-9 2>/dev/null <"$1") && [ -n "$pid" ] || { rm -f "$1"; return 0; }
  kill -"${3:-TERM}" "$pid" 2>/dev/null || true
  for ((t=0; t<${4:-15}*10; t++)); do [ -d "/proc/$pid" ] || break; sleep 0.1; done
  if [ -d "/proc/$pid" ]; then kill -KILL "$pid" 2>/dev/null || true; sleep 0.2; fi
  rm -f "$1"
}
waitfor() { # seconds description command...
  local n=$(( $1*10 )) d=$2 i; shift 2
  for ((i=0; i<n; i++)); do "$@" >/dev/null 2>&1 && return 0; sleep 0.1; done
  die "timed out waiting for $d (see $STATE/log)"
}

install_pkgs() {
  local need=() p
  for p in slurmctld slurmd slurm-client munge; do dpkg -s "$p" >/dev/null 2>&1 || need+=("$p"); done
  if [ "$ACCT" = dbd ]; then
    for p in slurmdbd mariadb-server; do dpkg -s "$p" >/dev/null 2>&1 || need+=("$p"); done
  fi
  [ ${#need[@]} -eq 0 ] && return 0
  say "installing ${need[*]}"
  mkdir -p "$STATE/log"
  # Stop the packages' own maintainer scripts from starting system-wide daemons.
  local rcd=/usr/sbin/policy-rc.d made=0
  if [ ! -e $rcd ]; then printf '#!/bin/sh\nexit 101\n' >$rcd; chmod 755 $rcd; made=1; fi
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${need[@]}"; } \
      >"$STATE/log/apt.log" 2>&1 || { [ $made = 1 ] && rm -f $rcd; tail -20 "$STATE/log/apt.log" >&2; die "apt-get failed"; }
  [ $made = 1 ] && rm -f $rcd; return 0
}

node_addr() { if [ "$ADDRS" = distinct ]; then echo "127.0.1.$1"; else echo 127.0.0.1; fi; }
hosts_lines() { local i; for ((i=1; i<=NODES; i++)); do echo "$(node_addr $i) n$i $MARK"; done; }
strip_hosts() { # rewrite in place (no rename: /etc/hosts may be a bind mount)
  grep -qF -- "$MARK" /etc/hosts || return 0
  local t; t=$(grep -vF -- "$MARK" /etc/hosts); printf '%s\n' "$t" >/etc/hosts
}
write_hosts() {
  if [ "$(grep -F -- "$MARK" /etc/hosts)" != "$(hosts_lines)" ]; then strip_hosts; hosts_lines >>/etc/hosts; fi
  # the machine's own name must resolve to loopback too: daemons and srun bind to it (NoInAddrAny)
  case "$(getent ahostsv4 "$HOST" | awk '{print $1; exit}')" in 127.*) ;; *) echo "127.0.0.1 $HOST $MARK" >>/etc/hosts;; esac
}

write_conf() {
  mkdir -p "$STATE"/{etc,log,run,ctld,spool,dev,munge,db}
  chmod 755 "$STATE" "$STATE/munge"; chmod 700 "$STATE/log" "$STATE/ctld"
  [ -s "$STATE/munge/key" ] || ( umask 077; head -c 128 /dev/urandom >"$STATE/munge/key" )
  chmod 600 "$STATE/munge/key"
  local i acct; for ((i=0; i<GPUS; i++)); do ln -sfn /dev/null "$STATE/dev/fakegpu$i"; done
  if [ "$ACCT" = dbd ]; then acct="AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$P_DBD
AccountingStoragePass=$STATE/munge/socket
AccountingStorageTRES=gres/gpu
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=30"
  else acct="AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/filetxt
JobCompLoc=$STATE/log/jobcomp.txt"; fi
  # NoInAddrAny makes an srun inside a batch job listen on its node's own address only, while remote step daemons
  # always call back to 127.0.0.1: with distinct addresses that hangs the job, so it goes with "same" only.
  local usersig='#'; if [ "$USER_SIGNAL" = 1 ]; then usersig=SlurmctldParameters=preempt_send_user_signal; fi
  local comm=NoCtldInAddrAny; if [ "$ADDRS" = same ]; then comm+=,NoInAddrAny; fi
  # Job ids must not start again at 1 in a fresh cluster: submitit folders named by %j would give stale results.
  # Two clusters side by side need different ids, because a job's port on this machine depends on its id.
  [ -s "$STATE/etc/first-jobid" ] || echo $(( ( ($(date +%s) - 1700000000) / 4 ) % 60000000 + (PORT - 16800) * 5 / 2 )) \
    >"$STATE/etc/first-jobid"
  cat >"$STATE/etc/slurm.conf.new" <<E
ClusterName=$CLUSTER
FirstJobId=$(cat "$STATE/etc/first-jobid")
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=$P_CTLD
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$STATE/munge/socket,cred_expire=$CRED_EXPIRE
CommunicationParameters=$comm
StateSaveLocation=$STATE/ctld
SlurmdSpoolDir=$STATE/spool/%n
SlurmctldPidFile=$STATE/run/slurmctld.pid
SlurmdPidFile=$STATE/run/slurmd-%n.pid
SlurmctldLogFile=$STATE/log/slurmctld.log
SlurmdLogFile=$STATE/log/slurmd-%n.log
SlurmctldDebug=info
SlurmdDebug=info
MailProg=/bin/true
# no cgroups, no cpu binding: only process-tree tracking
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=1000
GresTypes=gpu
# requeue and preemption
JobRequeue=$JOB_REQUEUE
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
$usersig
PreemptExemptTime=00:00:00
# fast reactions
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,bf_resolution=1,bf_continue
PriorityType=priority/basic
KillWait=5
CompleteWait=0
EpilogMsgTime=10
MinJobAge=900
InactiveLimit=0
SlurmctldTimeout=30
SlurmdTimeout=60
MessageTimeout=10
WaitTime=0
ReturnToService=2
MaxArraySize=$ARRAY
$acct
$(for ((i=1; i<=NODES; i++)); do echo "NodeName=n$i NodeHostname=n$i NodeAddr=$(node_addr $i) Port=$((PORT+20+i)) CPUs=$CPUS RealMemory=$MEM Gres=gpu:$GPUS${FEATURES:+ Features=$FEATURES} State=UNKNOWN"; done)
PartitionName=calm Nodes=n[$((NODES/2+1))-$NODES] Default=YES MaxTime=INFINITE DefaultTime=60 State=UP PriorityTier=1 PreemptMode=OFF
PartitionName=low Nodes=n[1-$((NODES/2))] MaxTime=INFINITE DefaultTime=60 State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=$GRACE
PartitionName=high Nodes=n[1-$((NODES/2))] MaxTime=INFINITE DefaultTime=60 State=UP PriorityTier=10 PreemptMode=OFF
E
  cat >"$STATE/etc/gres.conf" <<E
AutoDetect=off
NodeName=n[1-$NODES] Name=gpu File=$STATE/dev/fakegpu[0-$((GPUS-1))]
E
  cat >"$STATE/etc/slurmdbd.conf" <<E
DbdHost=$HOST
DbdAddr=127.0.0.1
DbdPort=$P_DBD
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$STATE/munge/socket
CommunicationParameters=NoInAddrAny
PidFile=$STATE/run/slurmdbd.pid
LogFile=$STATE/log/slurmdbd.log
DebugLevel=info
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$P_SQL
StorageUser=slurm
StoragePass=lmrc-slurm
StorageLoc=slurm_acct_db
E
  chmod 600 "$STATE/etc/slurmdbd.conf"
  if cmp -s "$STATE/etc/slurm.conf.new" "$STATE/etc/slurm.conf"; then rm "$STATE/etc/slurm.conf.new"
  else mv "$STATE/etc/slurm.conf.new" "$STATE/etc/slurm.conf"; CONF_CHANGED=1; fi
  if [ "${LMRC_SLURM_LINK_ETC:-0}" = 1 ]; then
    mkdir -p /etc/slurm
    if [ -L /etc/slurm/slurm.conf ] || [ ! -e /etc/slurm/slurm.conf ]; then ln -sfn "$STATE/etc/slurm.conf" /etc/slurm/slurm.conf; fi
  fi
}

start_munge() {
  alive "$STATE/run/munged.pid" munged && return 0
  munged --key-file="$STATE/munge/key" --socket="$STATE/munge/socket" --pid-file="$STATE/run/munged.pid" \
    --log-file="$STATE/log/munged.log" --seed-file="$STATE/munge/seed" --num-threads=10 --force 2>>"$STATE/log/munged.err" \
    || { cat "$STATE/log/munged.err" >&2; die munged; }
  waitfor 10 munge sh -c "munge -S '$STATE/munge/socket' -n | unmunge -S '$STATE/munge/socket'"
}
sql() { mariadb --no-defaults --protocol=socket -S "$STATE/db/sock" -uroot "$@"; }
start_sql() {
  alive "$STATE/run/mariadbd.pid" mariadbd && return 0
  if [ ! -d "$STATE/db/data/mysql" ]; then
    mariadb-install-db --no-defaults --user=root --datadir="$STATE/db/data" --auth-root-authentication-method=normal \
      --skip-test-db --skip-name-resolve >"$STATE/log/mariadb-install.log" 2>&1 || die mariadb-install-db
  fi
  setsid mariadbd --no-defaults --user=root --datadir="$STATE/db/data" --socket="$STATE/db/sock" --pid-file="$STATE/run/mariadbd.pid" \
    --bind-address=127.0.0.1 --port=$P_SQL --skip-name-resolve --log-error="$STATE/log/mariadbd.log" \
    --innodb-buffer-pool-size=64M --innodb-log-file-size=32M --innodb-flush-log-at-trx-commit=0 --innodb-lock-wait-timeout=900 --skip-log-bin \
    </dev/null >/dev/null 2>&1 &
  disown
  waitfor 30 mariadb sql -e 'select 1'
  sql -e "create database if not exists slurm_acct_db; create user if not exists slurm@'127.0.0.1' identified by 'lmrc-slurm'; grant all on slurm_acct_db.* to slurm@'127.0.0.1';"
}
start_dbd() {
  alive "$STATE/run/slurmdbd.pid" slurmdbd && return 0
  setsid slurmdbd </dev/null >>"$STATE/log/slurmdbd.out" 2>&1 || { cat "$STATE/log/slurmdbd.out" >&2; die slurmdbd; }
  waitfor 30 slurmdbd dbd_answers
  dbd_knows_cluster || sacctmgr -i add cluster $CLUSTER >>"$STATE/log/slurmdbd.out" 2>&1
  dbd_knows_cluster || { cat "$STATE/log/slurmdbd.out" >&2; die "sacctmgr add cluster"; }
}
dbd_answers()       { timeout 5 sacctmgr -n -p list user format=user | grep -q '^root|'; }   # root is always there
dbd_knows_cluster() { timeout 5 sacctmgr -n -p list cluster $CLUSTER format=cluster | grep -q "^$CLUSTER|"; }
start_ctld() {
  alive "$STATE/run/slurmctld.pid" slurmctld && return 0
  setsid slurmctld </dev/null >>"$STATE/log/slurmctld.out" 2>&1 || { cat "$STATE/log/slurmctld.out" >&2; die slurmctld; }
  waitfor 20 slurmctld scontrol ping
}
start_node() { # name; its own UTS namespace, so that `hostname` in a job is the node's name
  alive "$STATE/run/slurmd-$1.pid" slurmd && return 0
  mkdir -p "$STATE/spool/$1"
  setsid unshare --uts sh -c 'hostname "$1" && exec slurmd -N "$1"' sh "$1" </dev/null >>"$STATE/log/slurmd-$1.out" 2>&1 \
    || { cat "$STATE/log/slurmd-$1.out" >&2; die "slurmd $1"; }
}
kill_ns() { # SIGKILL every process in that UTS namespace (never our own)
  local p; [ -n "$1" ] && [ "$1" != "$(readlink /proc/self/ns/uts)" ] || return 0
  for p in /proc/[0-9]*; do if [ "$(readlink "$p/ns/uts" 2>/dev/null)" = "$1" ]; then kill -KILL "${p#/proc/}" 2>/dev/null || true; fi; done
}
# The whole "machine" dies: SIGKILL slurmd and all that lives in its UTS namespace (step daemons, tasks). SLURM would find
# out by itself after SlurmdTimeout, which is long for the sake of busy machines; a site's health check tells it sooner.
node_crash() {
  local pid ns; alive "$STATE/run/slurmd-$1.pid" slurmd || die "slurmd $1 is not running"
  pid=$(cat "$STATE/run/slurmd-$1.pid"); ns=$(readlink "/proc/$pid/ns/uts")
  [ "$ns" != "$(readlink /proc/self/ns/uts)" ] || die "node $1 has no namespace of its own"
  kill -KILL "$pid"
  kill_ns "$ns"
  rm -f "$STATE/run/slurmd-$1.pid"
  scontrol update "nodename=$1" state=down reason=crashed
}
all_idle() { # every node registered, none unknown/down/not responding ('*')
  [ "$(sinfo -h -N -o '%N %t' | sort -u | grep -Ec ' (idle|mix|alloc|comp)$')" -eq "$NODES" ]
}

up() {
  [ "$(id -u)" = 0 ] || die "run as root"
  local t0 t; t0=$(now); CONF_CHANGED=0
  install_pkgs; say "packages ok  (+$(since $t0)s)"
  # A cluster that was killed would come back with its jobs, which hold the nodes.
  if [ "${LMRC_SLURM_KEEP:-0}" != 1 ] && [ -d "$STATE/ctld" ] && ! alive "$STATE/run/slurmctld.pid" slurmctld; then down; fi
  write_conf; write_hosts
  if [ $CONF_CHANGED = 1 ] && alive "$STATE/run/slurmctld.pid" slurmctld; then
    say "configuration changed: telling the daemons"; scontrol reconfigure
  fi
  start_munge; say "munged ok    (+$(since $t0)s)"
  if [ "$ACCT" = dbd ]; then
    start_sql; say "mariadb ok   (+$(since $t0)s)"
    start_dbd; say "slurmdbd ok  (+$(since $t0)s)"
  fi
  start_ctld; say "slurmctld ok (+$(since $t0)s)"
  local i; for ((i=1; i<=NODES; i++)); do start_node n$i; done
  waitfor 30 "nodes to be idle" all_idle
  say "$NODES nodes up (+$(since $t0)s); now: eval \"\$($0 env)\""
}
stop_slurm() {
  local f
  for f in "$STATE"/run/slurmd-*.pid; do if alive "$f" slurmd; then kill "$(cat "$f")" 2>/dev/null || true; fi; done
  if alive "$STATE/run/slurmctld.pid" slurmctld; then kill "$(cat "$STATE/run/slurmctld.pid")" 2>/dev/null || true; fi
  for f in "$STATE"/run/slurmd-*.pid; do [ ! -e "$f" ] || stop "$f" slurmd; done
  stop "$STATE/run/slurmctld.pid" slurmctld
}
down() {
  local f i ns=()
  for f in "$STATE"/run/slurmd-*.pid; do if alive "$f" slurmd; then ns+=("$(readlink "/proc/$(cat "$f")/ns/uts")"); fi; done
  if alive "$STATE/run/slurmctld.pid" slurmctld; then
    # end what runs, so that no job step outlives the cluster
    if [ "${LMRC_SLURM_KEEP:-0}" != 1 ]; then
      timeout 10 scancel --state=PENDING -u root 2>/dev/null || true
      timeout 10 scancel -u root 2>/dev/null || true
      for ((i=0; i<100; i++)); do [ -z "$(timeout 5 squeue -h 2>/dev/null)" ] && break; sleep 0.1; done
    fi
  fi
  stop_slurm
  # what double-forked away from its step (proctrack/linuxproc loses it) still sits in its node's namespace
  if [ "${LMRC_SLURM_KEEP:-0}" != 1 ]; then for f in "${ns[@]}"; do kill_ns "$f"; done; fi
  stop "$STATE/run/slurmdbd.pid" slurmdbd
  stop "$STATE/run/mariadbd.pid" mariadbd TERM 30
  stop "$STATE/run/munged.pid" munged
  [ -f /etc/hosts ] && strip_hosts
  if [ "$(readlink /etc/slurm/slurm.conf 2>/dev/null)" = "$STATE/etc/slurm.conf" ]; then rm -f /etc/slurm/slurm.conf; fi
  if [ "${LMRC_SLURM_KEEP:-0}" != 1 ]; then rm -rf "$STATE/ctld" "$STATE/spool" "$STATE/db" "$STATE/run" "$STATE/etc/first-jobid"; fi
  say down
}
status() {
  local rc=0 p
  for p in munged mariadbd slurmdbd slurmctld $(seq -f 'slurmd-n%g' 1 "$NODES"); do
    case $p in mariadbd|slurmdbd) [ "$ACCT" = dbd ] || continue;; esac
    if alive "$STATE/run/$p.pid" "${p%%-*}"; then echo "$p up pid $(cat "$STATE/run/$p.pid")"; else echo "$p DOWN"; rc=1; fi
  done
  [ $rc = 0 ] && { sinfo; all_idle || rc=1; }
  return $rc
}

export SLURM_CONF="$STATE/etc/slurm.conf"
case "${1:-}" in
  up) up;;
  install) install_pkgs;;
  down) down;;
  status) status;;
  env) echo "export SLURM_CONF=$STATE/etc/slurm.conf GLOO_SOCKET_IFNAME=lo TP_SOCKET_IFNAME=lo NCCL_SOCKET_IFNAME=lo";;
  conf) cat "$STATE/etc/slurm.conf";;
  logs) tail -n 40 "$STATE"/log/*.log;;
  node-crash) node_crash "$2";;
  slurmd-kill) stop "$STATE/run/slurmd-$2.pid" slurmd KILL;;
  node-start) start_node "$2";;
  ctld-stop) stop "$STATE/run/slurmctld.pid" slurmctld "${2:-TERM}";;
  ctld-start) start_ctld;;
  *) sed -n '2,/^set -e/p' "$0" | sed '$d'; exit 2;;
esac
