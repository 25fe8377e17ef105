"use strict";
// A click on a heading sorts its table by that column, a second one the other way round.
for (const table of document.querySelectorAll("table")) {
  const headings = [...table.querySelectorAll("th")];
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const descending = heading.getAttribute("aria-sort") === "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const body = table.tBodies[0];
      const rows = [...body.rows].sort((a, b) => compare(a.cells[column], b.cells[column]));
      body.append(...(descending ? rows.reverse() : rows));
    });
  });
}
function compare(a, b) {
  if (a.dataset.key !== undefined && b.dataset.key !== undefined) {
    return Number(a.dataset.key) - Number(b.dataset.key);
  }
  return a.textContent.localeCompare(b.textContent);
}
