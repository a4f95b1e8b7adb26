// Sorts a table by the column whose head is pressed: numbers by size, texts by name.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement, body = head.closest("table").tBodies[0];
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = (row) => row.cells[head.cellIndex].textContent.trim();
    const number = (text) => parseFloat(text.replaceAll(",", "").replace(/^[^0-9.+-]+/, ""));
    const order = (a, b) => {
      const [x, y] = [number(value(a)), number(value(b))];
      if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y) || value(a).localeCompare(value(b));
      return x - y;
    };
    const rows = [...body.rows].sort(order);
    body.append(...(up ? rows : rows.reverse()));
  });
}
