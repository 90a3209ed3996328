"use strict";
// What the page can do beyond showing: the table sorts and filters, and the graph points at the layer that is shown.
{
  const byId = (id) => document.getElementById(id);
  const filters = { stage: byId("by-stage"), verdict: byId("by-verdict"), backend: byId("by-backend") };
  const search = byId("search");
  const box = byId("table");

  const table = new DataTable("#rows", {
    autoWidth: false,
    order: [],
    pageLength: 25,
    layout: { topStart: null, topEnd: null, bottomStart: "info", bottomEnd: ["pageLength", "paging"] },
    language: {
      info: "_START_ to _END_ of _TOTAL_",
      infoEmpty: "none",
      infoFiltered: "(of _MAX_)",
      lengthMenu: "_MENU_ rows",
      emptyTable: "There is nothing here.",
      zeroRecords: "Nothing is like that.",
    },
  });
  // Only the table scrolls sideways, and not the buttons below it.
  const inner = box.querySelector(".dt-layout-table");
  for (const name of ["class", "tabindex", "role", "aria-labelledby"]) {
    inner.setAttribute(name, `${name === "class" ? `${inner.className} ` : ""}${box.getAttribute(name)}`);
    box.removeAttribute(name);
  }

  // By number, as the table counts them: thousands are asked at each key.
  const rows = table.rows().nodes().toArray().map(({ dataset }) => [dataset.stage, dataset.verdicts.split(" ")]);
  table.search.fixed("filters", (_text, _data, index) => {
    const [stage, all] = rows[index];
    const found = filters.backend.value === "" ? all : [all[Number(filters.backend.value)]];
    const wanted = filters.verdict.value;
    // A backend by itself: where there is something to say of it.
    const matches = (verdict) => (wanted === "" ? !["identical", "rounding", ""].includes(verdict) : verdict === wanted);
    const isAsked = filters.backend.value !== "" || wanted !== "";
    return (filters.stage.value === "" || stage === filters.stage.value) && (!isAsked || found.some(matches));
  });
  const draw = () => table.search(search.value).draw();
  search.addEventListener("input", draw);
  Object.values(filters).forEach((each) => each.addEventListener("change", draw));
  const showAll = () => [search, ...Object.values(filters)].forEach((each) => (each.value = ""));
  byId("reset").addEventListener("click", () => (showAll(), draw()));
  document.querySelectorAll("a[data-search]").forEach((link) =>
    link.addEventListener("click", () => {
      showAll();
      search.value = `"${link.dataset.search}"`;
      draw();
    }),
  );

  const graph = byId("graph");
  let current = [];
  const point = () => {
    const target = /^#layer-\d+$/.test(location.hash) ? location.hash : `#${document.querySelector(".layer.shown").id}`;
    current.forEach((card) => card.removeAttribute("aria-current"));
    current = [...document.querySelectorAll(`a.card[href="${target}"]`)];
    current.forEach((card) => card.setAttribute("aria-current", "true"));
    if (!graph || !current.length) return;
    // The box is scrolled, and not the page: that is on its way to the details.
    const [card, frame] = [current[0].getBoundingClientRect(), graph.getBoundingClientRect()];
    if (card.top < frame.top || card.bottom > frame.bottom) graph.scrollTop += card.top - frame.top - frame.height / 3;
    if (card.left < frame.left || card.right > frame.right) graph.scrollLeft += card.left - frame.left - 8;
  };
  addEventListener("hashchange", point);
  point();
}
