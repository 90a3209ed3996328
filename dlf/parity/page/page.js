"use strict";
// What the page can do beyond showing: the table sorts and filters, and the graph points at the layer that is shown.
{
  const byId = (id) => document.getElementById(id);
  const filters = { stage: byId("by-stage"), verdict: byId("by-verdict"), backend: byId("by-backend") };
  const table = filteredTable({
    fields: Object.values(filters),
    read: ({ dataset }) => [dataset.stage, dataset.verdicts.split(" ")],
    matches: ([stage, all]) => {
      const found = filters.backend.value === "" ? all : [all[Number(filters.backend.value)]];
      const wanted = filters.verdict.value;
      // A backend by itself: where there is something to say of it.
      const matches = (verdict) => (wanted === "" ? !["identical", "rounding", ""].includes(verdict) : verdict === wanted);
      const isAsked = filters.backend.value !== "" || wanted !== "";
      return (filters.stage.value === "" || stage === filters.stage.value) && (!isAsked || found.some(matches));
    },
  });
  table.link("a[data-search]");

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
