"use strict";
// The table of a page, `#rows` in the box `#table`: it sorts, and shows what the fields above it ask for.
// `fields` are those beside the text's, `read` says what of a row they ask for, and `matches` whether that is asked for.
const filteredTable = ({ fields, read, matches }) => {
  const [box, search] = [document.getElementById("table"), document.getElementById("search")];
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
  const rows = table.rows().nodes().toArray().map(read);
  table.search.fixed("filters", (_text, _data, index) => matches(rows[index]));
  const draw = () => table.search(search.value).draw();
  const showAll = () => [search, ...fields].forEach((each) => (each.value = ""));
  search.addEventListener("input", draw);
  fields.forEach((each) => each.addEventListener("change", draw));
  document.getElementById("reset").addEventListener("click", () => (showAll(), draw()));
  // Links that lead to some rows: `set` is given their data.
  const link = (links, set) =>
    document.querySelectorAll(links).forEach((each) =>
      each.addEventListener("click", () => {
        showAll();
        search.value = each.dataset.search ?? "";
        set?.(each.dataset);
        draw();
      }),
    );
  return { link };
};
