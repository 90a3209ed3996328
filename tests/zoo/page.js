"use strict";
// What the page can do beyond showing: the table sorts and filters, and numbers lead to the rows that they count.
{
  const names = ["kind", "verdict", "stages", "on", "news"];
  const fields = names.map((name) => document.getElementById(`by-${name}`));
  const table = filteredTable({
    fields,
    read: ({ dataset }) => names.map((name) => dataset[name].split(" ")),
    matches: (row) => fields.every(({ value }, place) => value === "" || row[place].includes(value)),
  });
  table.link("a[data-rows]", (wanted) => fields.forEach((field, place) => (field.value = wanted[names[place]] ?? "")));
}
