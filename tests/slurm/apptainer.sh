#!/bin/bash
# A stand-in for `apptainer exec`, as root, without an image: the host's files are the image's, except for some folders.
#
#   apptainer exec [--nv] [--bind SOURCE:DESTINATION[:OPTIONS]]… [--env NAME=VALUE]… [--pwd FOLDER] IMAGE COMMAND…
#
# What it has in common with apptainer:
#   - any other word before IMAGE, an IMAGE that does not exist and a SOURCE that does not exist are errors (status 255);
#   - of the folders in $LMRC_HIDDEN (separated by colons) the command sees only what is bound, in a mount namespace of
#     its own; OPTIONS ro makes it read-only;
#   - PATH is that of the image ($LMRC_IMAGE_PATH), which has no SLURM commands;
#   - the host's other variables are passed on, and the command has APPTAINER_CONTAINER and APPTAINER_NV (1 with --nv);
#   - the command replaces this process, so that signals reach it.
# What it has not: a file system from the image, users, networks, GPUs.
set -euo pipefail
fail() { echo "FATAL: $*" >&2; exit 255; }

if [ "${1:-}" != inside ]; then
  [ "${1:-}" = exec ] || fail "only exec is supported"
  exec unshare --mount --propagation private "$0" inside "${@:2}"
fi
shift
binds=() folder=/ nv=0
while [[ ${1:-} == --* ]]; do
  case $1 in
    --nv) nv=1; shift;;
    --bind) binds+=("$2"); shift 2;;
    --env) export "${2?}"; shift 2;;
    --pwd) folder=$2; shift 2;;
    *) fail "unknown flag: $1";;
  esac
done
image=${1:?no image}; shift
[ -e "$image" ] || fail "could not open image $image: no such file or directory"

# The sources stay reachable in a private folder while the hidden folders are covered.
stash=/run/lmrc-apptainer; mkdir -p "$stash"; mount -t tmpfs none "$stash"
number=0
for bind in "${binds[@]}"; do
  IFS=: read -r source _ <<< "$bind"
  [ -e "$source" ] || fail "mount source $source doesn't exist"
  number=$((number + 1))
  if [ -d "$source" ]; then mkdir "$stash/$number"; else touch "$stash/$number"; fi
  mount --bind "$source" "$stash/$number"
done
IFS=: read -ra hidden <<< "${LMRC_HIDDEN:-}"
for covered in "${hidden[@]}"; do mount -t tmpfs none "$covered"; done
number=0
for bind in "${binds[@]}"; do
  IFS=: read -r _ target options <<< "$bind"
  number=$((number + 1))
  if [ -d "$stash/$number" ]; then mkdir -p "$target"; else mkdir -p "$(dirname "$target")"; touch "$target"; fi
  mount --bind "$stash/$number" "$target"
  if [ "${options:-}" = ro ]; then mount -o remount,bind,ro "$target"; fi
done
cd "$folder" || fail "no folder $folder in the container"
export PATH=${LMRC_IMAGE_PATH:?} APPTAINER_CONTAINER=$image APPTAINER_NV=$nv
exec "$@"
