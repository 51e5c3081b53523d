"use strict";

(() => {
  // Sort, filter and copy tables. The bars of a cell and the table itself need no script.
  const element = (tag, properties = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };
  const cellsOf = (row) => [...row.cells].map((cell) => cell.textContent.trim());
  const valueOf = (text) => (text === "-" || text === "" ? NaN : Number(text.replace(/,/g, "")));
  const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text);

  const copy = (table, button) => {
    const rows = [...table.rows].filter((row) => !row.hidden);
    const text = rows.map((row) => cellsOf(row).map(quoted).join(",")).join("\n") + "\n";
    const say = (words) => {
      button.textContent = words;
      setTimeout(() => { button.textContent = "Copy as CSV"; }, 2000);
    };
    navigator.clipboard.writeText(text).then(() => say("Copied"), () => say("Not allowed by the browser"));
  };

  const sort = (table, column, head) => {
    const body = table.tBodies[0];
    const isNumber = head.classList.contains("number");
    // Numbers start with the largest, words with the first of the alphabet.
    const first = isNumber ? "descending" : "ascending";
    const other = isNumber ? "ascending" : "descending";
    const order = head.getAttribute("aria-sort") === first ? other : first;
    const sign = order === "ascending" ? 1 : -1;
    const keyed = [...body.rows].map((row, index) => ({ row, index, text: cellsOf(row)[column] }));
    keyed.sort((a, b) => {
      if (!isNumber) return sign * a.text.localeCompare(b.text, "en") || a.index - b.index;
      const [x, y] = [valueOf(a.text), valueOf(b.text)];
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y) || a.index - b.index;
      return sign * (x - y) || a.index - b.index;
    });
    body.append(...keyed.map(({ row }) => row));
    for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
  };

  for (const table of document.querySelectorAll(".item table")) {
    const button = element("button", { type: "button", textContent: "Copy as CSV" });
    button.addEventListener("click", () => copy(table, button));
    const tools = element("div", { className: "tools" });
    table.closest(".scroll").after(tools);
    if (table.classList.contains("sortable")) {
      table.closest(".scroll").before(tools);
      const rows = [...table.tBodies[0].rows];
      const field = element("input", { type: "search", placeholder: "relation", ariaLabel: "Filter the rows" });
      const count = element("small", { role: "status" });
      const filter = () => {
        const words = field.value.trim().toLowerCase().split(/\s+/);
        let left = 0;
        for (const row of rows) {
          const text = cellsOf(row).join(" ").toLowerCase();
          row.hidden = !words.every((word) => text.includes(word));
          left += !row.hidden;
        }
        count.textContent = `${left} of ${rows.length}`;
      };
      field.addEventListener("input", filter);
      field.addEventListener("keydown", (event) => {
        if (event.key !== "Escape" || field.value === "") return;
        event.preventDefault();
        event.stopPropagation();
        field.value = "";
        filter();
      });
      filter();
      tools.append(element("label", {}, "Filter ", field), count);
      [...table.tHead.rows[0].cells].forEach((head, column) => {
        const sorter = element("button", { type: "button" }, head.textContent);
        sorter.addEventListener("click", () => sort(table, column, head));
        head.replaceChildren(sorter);
      });
    }
    tools.append(button);
  }
})();

(() => {
  // Mark the section in sight, in the navigation.
  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const sections = [...document.querySelectorAll("main > section")];
  let marked = null;
  const mark = () => {
    const line = document.querySelector("nav").getBoundingClientRect().bottom + 40;
    const passed = sections.filter((section) => section.getBoundingClientRect().top <= line);
    const atEnd = window.innerHeight + window.scrollY >= document.documentElement.scrollHeight - 2;
    const here = atEnd && window.scrollY > 0 ? sections[sections.length - 1] : passed[passed.length - 1] || sections[0];
    const link = here === undefined ? undefined : links.get(here.id);
    if (link === undefined || link === marked) return;
    if (marked !== null) marked.removeAttribute("aria-current");
    link.setAttribute("aria-current", "true");
    const list = link.closest("ul");
    list.scrollLeft = link.offsetLeft - list.offsetLeft - (list.clientWidth - link.offsetWidth) / 2;
    marked = link;
  };
  window.addEventListener("scroll", mark, { passive: true });
  window.addEventListener("resize", mark);
  mark();
})();
