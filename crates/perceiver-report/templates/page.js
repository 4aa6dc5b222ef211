"use strict";
// Values under the pointer or the finger. Without this, browsers still show each point's <title>.
for (const chart of document.querySelectorAll(".chart")) {
  const output = chart.querySelector("output");
  const idle = output.textContent;
  let shown = null;
  const show = (column) => {
    if (shown) shown.classList.remove("shown");
    shown = column;
    if (column) column.classList.add("shown");
    output.textContent = column ? column.dataset.says : idle;
  };
  const at = (event) => {
    const under = document.elementFromPoint(event.clientX, event.clientY);
    const column = under && under.closest(".column");
    if (column && chart.contains(column)) show(column);
  };
  chart.addEventListener("pointerdown", at);
  chart.addEventListener("pointermove", at);
  chart.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") show(null); });
}

for (const map of document.querySelectorAll(".map")) {
  const { classes, order, totals, cells } = JSON.parse(document.getElementById(map.dataset.cells).textContent);
  const counts = new Map(cells.map(([label, predicted, count]) => [label * classes.length + predicted, count]));
  const plane = map.querySelector(".plane");
  const [row, column] = plane.querySelectorAll("i");
  const output = map.querySelector("output");
  const at = (event) => {
    const box = plane.getBoundingClientRect();
    const place = (share) => Math.min(order.length - 1, Math.max(0, Math.floor(share * order.length)));
    const y = place((event.clientY - box.top) / box.height);
    const x = place((event.clientX - box.left) / box.width);
    const [label, predicted] = [order[y], order[x]];
    const count = counts.get(label * classes.length + predicted) || 0;
    const says = label === predicted ? "predicted correctly" : `predicted as ${classes[predicted]}`;
    output.textContent = `${classes[label]} ${says}: ${count} of ${totals[label]}`;
    const percent = (n) => `${(100 * n) / order.length}%`;
    Object.assign(row.style, { display: "block", top: percent(y), height: percent(1) });
    Object.assign(column.style, { display: "block", left: percent(x), width: percent(1) });
  };
  plane.addEventListener("pointerdown", at);
  plane.addEventListener("pointermove", at);
}

// A table's head sorts by its column: by data-sort where a cell has it, else by number, else by text.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const key = (row, index) => {
    const cell = row.cells[index];
    const text = cell.dataset.sort || cell.textContent;
    return text.trim() === "" || isNaN(text) ? text : Number(text);
  };
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
  heads.forEach((head, index) => {
    head.tabIndex = 0;
    const sort = () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => (down ? -1 : 1) * compare(key(a, index), key(b, index)));
      table.tBodies[0].append(...rows);
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  });
}
