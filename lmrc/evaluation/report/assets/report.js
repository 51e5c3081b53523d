"use strict";

(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const themes = ["system", "light", "dark"];
  button.hidden = false;
  button.addEventListener("click", () => {
    const next = themes[(themes.indexOf(root.dataset.theme || "system") + 1) % themes.length];
    root.dataset.theme = next;
    button.textContent = `Theme: ${next}`;
  });
})();

(() => {
  // Unfold everything for printing.
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const details of opened) details.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const details of opened) details.open = false;
  });
})();

(() => {
  const stored = document.getElementById("documents-data");
  if (stored === null) return;
  const data = JSON.parse(stored.textContent);
  const form = document.getElementById("filters");
  const fields = form.elements;
  const list = document.getElementById("titles");
  const pane = document.getElementById("document");
  const found = document.getElementById("found");
  const kinds = data.kinds; // [name, group, words]
  const scored = fields.score !== undefined; // triples without gold ones; their fifth number is their score
  const number = (value) => value.toLocaleString("en");
  const some = (value, noun) => `${number(value)} ${noun}${value === 1 ? "" : "s"}`;
  let shown = []; // indices of the matching documents, in the order of the list
  let current = -1; // index of the document that is shown

  const element = (tag, properties = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };
  const option = (value, text) => element("option", { value, textContent: text });

  // Current values of the filters.
  const run = () => data.runs[Number(fields.run.value)];
  const documents = () => data.corpora[run().corpus];
  const wanted = (kind) => kind === "" || kinds.map(([name, group]) =>
    name === kind || group === kind || (kind === "errors" && group !== "correct"));
  const matcher = (relation = fields.relation.value) => {
    const chosen = wanted(fields.kind.value);
    const least = scored ? Number(fields.score.value) : 0;
    return (triple) => !(triple[4] < least) && (relation === "" || data.relations[triple[2]][0] === relation) && (chosen === true || chosen[triple[3]]);
  };

  const texts = new Map();
  const textOf = (document) => {
    if (!texts.has(document)) {
      const words = [document.title, ...document.sentences.map((tokens) => tokens.join(" ")),
        ...document.entities.map(([name]) => name)];
      texts.set(document, words.join("\n").toLowerCase());
    }
    return texts.get(document);
  };

  const f1 = (triples) => {
    let correct = 0, predicted = 0, gold = 0;
    for (const triple of triples) {
      const group = kinds[triple[3]][1];
      correct += group === "correct";
      predicted += group !== "missed";
      gold += group !== "wrong";
    }
    return predicted + gold ? (200 * correct) / (predicted + gold) : 0;
  };

  const fillRelations = () => {
    const match = matcher("");
    const counts = new Map();
    for (const triples of run().triples) {
      for (const triple of triples) if (match(triple)) counts.set(triple[2], (counts.get(triple[2]) || 0) + 1);
    }
    const kept = fields.relation.value;
    const indices = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a) || a - b);
    const total = [...counts.values()].reduce((sum, count) => sum + count, 0);
    const options = [option("", `all (${number(total)})`)];
    for (const index of indices) {
      const [id, name] = data.relations[index];
      options.push(option(id, `${name} ${id} (${number(counts.get(index))})`));
    }
    // A relation without a match stays selected; the list is then empty.
    if (kept !== "" && !options.some(({ value }) => value === kept)) options.push(option(kept, `${kept} (0)`));
    fields.relation.replaceChildren(...options);
    fields.relation.value = kept;
  };

  const filter = () => {
    const match = matcher();
    const free = fields.relation.value === "" && fields.kind.value === "" && !(scored && Number(fields.score.value));
    if (scored) form.querySelector("output").textContent = Number(fields.score.value).toFixed(2);
    const words = fields.search.value.trim().toLowerCase();
    const { triples } = run();
    const rows = [];
    let count = 0;
    documents().forEach((document, index) => {
      const matches = triples[index].filter(match).length;
      if ((!free && matches === 0) || (words !== "" && !textOf(document).includes(words))) return;
      rows.push({ index, matches, f1: f1(triples[index]) });
      count += matches;
    });
    if (fields.order.value === "worst") rows.sort((a, b) => a.f1 - b.f1 || a.index - b.index);
    if (fields.order.value === "most") rows.sort((a, b) => b.matches - a.matches || a.index - b.index);
    shown = rows.map(({ index }) => index);
    found.textContent = `${number(rows.length)} of ${some(documents().length, "document")}, ${some(count, "triple")}`;
    list.replaceChildren(...rows.map(({ index, matches, f1 }) => {
      const counted = some(matches, "triple");
      const small = element("small", { textContent: scored ? counted : `F1 ${f1.toFixed(1)}, ${counted}` });
      const button = element("button", { type: "button", tabIndex: -1 }, documents()[index].title, small);
      button.dataset.index = index;
      return element("li", {}, button);
    }));
    show(shown.includes(current) ? current : shown.length ? shown[0] : -1, false);
  };

  // Return a sentence with marked mentions. Each mark lists all mentions that cover it.
  const marked = (document, sentence) => {
    const tokens = document.sentences[sentence];
    const covering = tokens.map(() => []);
    const ends = tokens.map(() => []);
    document.entities.forEach(([, , spans], entity) => {
      for (let at = 0; at < spans.length; at += 3) {
        if (spans[at] !== sentence) continue;
        for (let token = spans[at + 1]; token < spans[at + 2]; token += 1) covering[token].push(entity);
        ends[spans[at + 2] - 1].push(entity);
      }
    });
    // Tokens with no space before them, if the text is known.
    const glued = new Set((document.glued || [])[sentence]);
    const spaced = (from, to) => tokens.slice(from, to).map((token, at) =>
      at === 0 || glued.has(from + at) ? token : ` ${token}`).join("");
    const node = element("li");
    for (let start = 0; start < tokens.length;) {
      let end = start + 1;
      const key = covering[start].join();
      while (end < tokens.length && covering[end].join() === key && ends[end - 1].length === 0) end += 1;
      const words = spaced(start, end);
      if (node.childNodes.length && !glued.has(start)) node.append(" ");
      if (covering[start].length === 0) {
        node.append(words);
      } else {
        const type = document.entities[covering[start][0]][1];
        const labels = covering[start].map((entity) => `${entity}: ${document.entities[entity].slice(0, 2).join(", ")}`);
        const mark = element("mark", { className: data.types.includes(type) ? type : "other" }, words);
        mark.title = labels.join("; ");
        mark.dataset.entities = covering[start].join(" ");
        if (ends[end - 1].length) mark.append(element("sub", { textContent: ends[end - 1].join(" ") }));
        node.append(mark);
      }
      start = end;
    }
    return node;
  };

  const entity = (document, index) => {
    const known = document.entities[index];
    return [known ? known[0] : "no such entity", element("sub", { textContent: index })];
  };

  // Return a list item whose button frames the pair of `triples`, and marks their evidence.
  const item = (document, triples, ...content) => {
    const [head, tail] = triples[0];
    const button = element("button", { type: "button" }, ...content);
    const evidence = triples.flatMap(([, , relation]) =>
      document.evidence[`${head} ${tail} ${data.relations[relation][0]}`] || []);
    for (const event of ["focus", "pointerenter", "click"]) {
      button.addEventListener(event, () => highlight(head, tail, evidence));
    }
    return element("li", {}, button);
  };

  const relationName = ([, , relation, kind]) => {
    const [id, name] = data.relations[relation];
    return element("i", { className: kinds[kind][1], textContent: name, title: id });
  };

  const scoredItem = (document, triple) => item(document, [triple], ...entity(document, triple[0]), " ",
    relationName(triple), " ", ...entity(document, triple[1]), element("small", { className: "score", textContent: triple[4].toFixed(3) }));

  // Return the triples of a pair, one or two a line: a missed one stands before a wrong one that was found instead.
  const lines = (triples) => {
    const [correct, missed, wrong] = ["correct", "missed", "wrong"].map((name) =>
      triples.filter((triple) => kinds[triple[3]][1] === name));
    const others = Array.from({ length: Math.max(missed.length, wrong.length) }, (_, at) =>
      [missed[at], wrong[at]].filter(Boolean));
    return [...correct.map((triple) => [triple]), ...others];
  };

  const line = (triples) => {
    const [, group, words] = kinds[triples[triples.length - 1][3]];
    const sign = { correct: "✓", missed: "○", wrong: "✗" }[group];
    const names = triples.map(relationName);
    if (names.length === 2) names.splice(1, 0, " → ");
    return element("span", { className: group }, `${sign} `, ...names, " ", element("small", { textContent: words }));
  };

  const pairItem = (document, rows) => item(document, rows.flat(), ...entity(document, rows[0][0][0]), ", ",
    ...entity(document, rows[0][0][1]), ...rows.map(line));

  // Return one item for each pair that has a line with a triple that matches.
  const pairItems = (document, triples, match) => {
    const pairs = new Map();
    for (const triple of triples) {
      const pair = `${triple[0]} ${triple[1]}`;
      if (!pairs.has(pair)) pairs.set(pair, []);
      pairs.get(pair).push(triple);
    }
    return [...pairs.values()].map((pair) => lines(pair).filter((row) => row.some(match)))
      .filter((rows) => rows.length).map((rows) => pairItem(document, rows));
  };

  const highlight = (head, tail, evidence) => {
    for (const mark of pane.querySelectorAll("mark[data-entities]")) {
      const here = mark.dataset.entities.split(" ").map(Number);
      mark.classList.toggle("head", here.includes(head));
      mark.classList.toggle("tail", here.includes(tail));
    }
    pane.querySelectorAll("ol.text > li").forEach((line, sentence) =>
      line.classList.toggle("evidence", evidence.includes(sentence)));
    const text = pane.querySelector("ol.text");
    const first = pane.querySelector("mark.head, mark.tail");
    if (first) text.scrollTop += first.getBoundingClientRect().top - text.getBoundingClientRect().top - 40;
  };

  const show = (index, focus) => {
    current = index;
    for (const button of list.querySelectorAll("button")) {
      const here = Number(button.dataset.index) === index;
      button.tabIndex = here ? 0 : -1;
      button.removeAttribute("aria-current");
      if (here) {
        button.setAttribute("aria-current", "true");
        const top = button.offsetTop, bottom = top + button.offsetHeight;
        if (top < list.scrollTop) list.scrollTop = top - 3;
        if (bottom > list.scrollTop + list.clientHeight) list.scrollTop = bottom - list.clientHeight + 3;
        if (focus) button.focus({ preventScroll: true });
      }
    }
    if (index < 0) {
      pane.replaceChildren(element("p", { textContent: "No document matches these filters." }));
      remember();
      return;
    }
    const document = documents()[index];
    const match = matcher();
    const triples = run().triples[index];
    const left = triples.filter(match);
    const count = left.length === triples.length ? number(triples.length) : `${left.length} of ${triples.length}, filtered`;
    const items = scored ? left.map((triple) => scoredItem(document, triple)) : pairItems(document, triples, match);
    const body = items.length ? element("ul", {}, ...items) : element("p", { className: "remark", textContent: "none" });
    const heading = element("h4", {}, scored ? "Triples " : "Triples by pair: gold → predicted ",
      element("small", { textContent: count }));
    const attributes = { className: "text", start: 0, tabIndex: 0, ariaLabel: "Text by sentence" };
    const text = element("ol", attributes, ...document.sentences.map((_, i) => marked(document, i)));
    const score = element("small", { textContent: scored ? "" : `F1 ${f1(triples).toFixed(1)} of ${run().name}` });
    pane.replaceChildren(element("h3", {}, `${document.title} `, score), text,
      element("section", { className: "triples" }, heading, body));
    remember();
  };

  // The URL stores the filters: #run=…&relation=P17&kind=missed&document=TITLE&search=…
  const NAMES = ["relation", "kind", "order", "search", ...(scored ? ["score"] : [])];
  let ready = false;
  const remember = () => {
    if (!ready) return;
    const state = new URLSearchParams();
    if (data.runs.length > 1) state.set("run", run().name);
    for (const name of NAMES) if (fields[name].value !== fields[name].dataset.default) state.set(name, fields[name].value);
    if (current >= 0) state.set("document", documents()[current].title);
    history.replaceState(null, "", `#${state}`);
  };
  const recall = () => {
    const state = new URLSearchParams(location.hash.slice(1));
    const asked = [...state.keys()].some((name) => ["run", "document", ...NAMES].includes(name));
    if (!asked && ready) return; // the hash is the anchor of a section
    const named = data.runs.findIndex(({ name }) => name === state.get("run"));
    fields.run.value = Math.max(named, 0);
    for (const name of NAMES.slice(1)) fields[name].value = state.get(name) || fields[name].dataset.default;
    for (const name of ["kind", "order"]) if (fields[name].selectedIndex < 0) fields[name].selectedIndex = 0;
    fields.relation.replaceChildren(option(state.get("relation") || "", ""));
    fillRelations();
    current = documents().findIndex(({ title }) => title === state.get("document"));
    ready = false; // do not overwrite the URL while reading it
    filter();
    ready = true;
    if (asked) document.getElementById("documents").scrollIntoView();
  };

  data.runs.forEach(({ name }, index) => fields.run.append(option(index, name)));
  fields.run.closest("label").hidden = data.runs.length < 2;
  for (const name of NAMES) fields[name].dataset.default = name === "score" ? "0" : "";
  for (const [kind, words] of data.choices) fields.kind.append(option(kind, words));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", (event) => {
    if (event.target === fields.run || event.target === fields.kind || event.target === fields.score) fillRelations();
    filter();
  });
  list.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) show(Number(button.dataset.index), false);
  });
  window.addEventListener("hashchange", recall);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const field = event.target.closest("input, select, textarea");
    if (field) {
      if (event.key === "Escape") {
        if (field === fields.search && field.value !== "") {
          // The browser would empty the field without an input event.
          event.preventDefault();
          field.value = "";
          filter();
        }
        field.blur();
      }
      return;
    }
    const within = list.contains(event.target);
    const step = event.key === "j" || (within && event.key === "ArrowDown") ? 1
      : event.key === "k" || (within && event.key === "ArrowUp") ? -1 : 0;
    if (step) {
      event.preventDefault();
      const next = shown[Math.min(Math.max(shown.indexOf(current) + step, 0), shown.length - 1)];
      if (next !== undefined) show(next, true);
    } else if (event.key === "/") {
      event.preventDefault();
      fields.search.focus();
    }
  });
  document.getElementById("browser").hidden = false;
  recall();
})();
