"use strict";

async function draw() {
  const specs = JSON.parse(document.getElementById("specs").textContent);
  const options = { renderer: "svg", actions: false, tooltip: { theme: "custom" } };
  let drawn = 0;
  for (const place of document.querySelectorAll("[data-figure]")) {
    try {
      const spec = specs[place.dataset.figure];
      const narrow = place.clientWidth < 480;
      Object.assign(spec.config.legend, { columns: narrow ? 1 : 3, labelLimit: narrow ? place.clientWidth - 60 : 240 });
      spec.config.axis.labelLimit = narrow ? 104 : 170;
      await vegaEmbed(place, spec, options);
      drawn += 1;
    } catch (error) {
      place.textContent = `This chart could not be drawn: ${error.message}`;
      console.error(error);
    }
  }
  document.documentElement.dataset.drawn = String(drawn);
}

function readings() {
  const list = document.getElementById("row-list");
  if (!list) return;
  const [search, group, sort, count] = ["search", "group", "sort", "count"].map((id) => document.getElementById(id));
  const rows = [...list.children].map((element, place) => ({ element, place, text: element.textContent.toLowerCase() }));
  const number = (row) => Number(row.element.dataset.order);
  const orders = {
    given: (one, other) => one.place - other.place,
    high: (one, other) => number(other) - number(one) || one.place - other.place,
    low: (one, other) => number(one) - number(other) || one.place - other.place,
    task: (one, other) =>
      one.element.dataset.task.localeCompare(other.element.dataset.task) || one.place - other.place,
  };
  function show() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const fits = words.every((word) => row.text.includes(word));
      row.element.hidden = !fits || (group.value !== "" && row.element.dataset.group !== group.value);
      shown += row.element.hidden ? 0 : 1;
    }
    count.textContent = `${shown} of ${rows.length} rows`;
  }
  function order() {
    list.append(...[...rows].sort(orders[sort.value]).map((row) => row.element));
  }
  search.addEventListener("input", show);
  group.addEventListener("change", show);
  sort.addEventListener("change", order);
  search.form.addEventListener("submit", (event) => event.preventDefault());
  show();
}

readings();
draw();
