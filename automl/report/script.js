"use strict";
(function () {
  var errors = 0;
  function failed() {
    errors += 1;
    if (document.body) document.body.setAttribute("data-errors", String(errors));
  }
  window.addEventListener("error", failed);
  window.addEventListener("unhandledrejection", failed);

  // Sortable tables: numbers by data-value, everything else by its text; empty cells last.
  function sortBy(table, column, ascending) {
    var body = table.tBodies[0];
    var rows = Array.prototype.slice.call(body.rows);
    function key(row) {
      var cell = row.cells[column];
      var value = cell.getAttribute("data-value");
      return value === null ? cell.textContent.trim() : value === "" ? null : Number(value);
    }
    var keyed = rows.map(function (row, at) { return { row: row, key: key(row), at: at }; });
    keyed.sort(function (a, b) {
      var noA = a.key === null || a.key === "", noB = b.key === null || b.key === "";
      if (noA || noB) return noA && noB ? a.at - b.at : noA ? 1 : -1;
      var order = typeof a.key === "number" && typeof b.key === "number"
        ? a.key - b.key : String(a.key).localeCompare(String(b.key), undefined, { numeric: true });
      return (ascending ? order : -order) || a.at - b.at;
    });
    keyed.forEach(function (item) { body.appendChild(item.row); });
  }
  document.querySelectorAll("table[data-sortable]").forEach(function (table) {
    var heads = Array.prototype.slice.call(table.tHead.rows[0].cells);
    heads.forEach(function (head, column) {
      head.addEventListener("click", function () {
        var now = head.getAttribute("aria-sort");
        var ascending = now === "none" ? head.getAttribute("data-first") !== "descending" : now === "descending";
        heads.forEach(function (other) { other.setAttribute("aria-sort", "none"); });
        head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
        sortBy(table, column, ascending);
      });
    });
  });

  // One tooltip for every mark that has a data-tip, by mouse or by finger.
  var tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  document.body.appendChild(tip);
  function show(event) {
    var mark = event.target.closest ? event.target.closest("[data-tip]") : null;
    if (!mark) { tip.hidden = true; return; }
    tip.textContent = mark.getAttribute("data-tip");
    tip.hidden = false;
    var page = document.documentElement;
    var left = Math.min(event.pageX + 12, window.scrollX + page.clientWidth - tip.offsetWidth - 8);
    var above = event.clientY + tip.offsetHeight + 30 > page.clientHeight;
    tip.style.left = Math.max(window.scrollX + 6, left) + "px";
    tip.style.top = (above ? event.pageY - tip.offsetHeight - 12 : event.pageY + 16) + "px";
  }
  document.addEventListener("pointermove", show);
  document.addEventListener("pointerdown", show);
  document.addEventListener("scroll", function () { tip.hidden = true; }, { passive: true });

  // A plot counts as drawn when it takes up room and every picture in it could be decoded.
  function check() {
    document.querySelectorAll("[data-plot]").forEach(function (plot) {
      var box = plot.getBoundingClientRect();
      var inside = plot.querySelector("svg,table,img,p,figure,.bar");
      var pictures = Array.prototype.slice.call(plot.querySelectorAll("img"));
      var whole = pictures.every(function (img) { return img.complete && img.naturalWidth > 0; });
      if (inside && whole && box.width > 0 && box.height > 0) plot.setAttribute("data-drawn", "true");
      else failed();
    });
    document.body.setAttribute("data-errors", String(errors));
  }
  if (document.readyState === "complete") check();
  else window.addEventListener("load", check);
})();
