(() => {
  "use strict";
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);

  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") !== "descending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const key = (row) => row.cells[column].dataset.value;
        const compare = (a, b) => {
          if (a === "" || b === "") return (a === "") - (b === "");
          const [x, y] = [Number(a), Number(b)];
          const order = Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
          return down ? -order : order;
        };
        const body = table.tBodies[0];
        body.append(...[...body.rows].sort((a, b) => compare(key(a), key(b))));
      });
    });
  }

  const filters = document.querySelector(".filters");
  if (filters) {
    const cards = [...document.querySelectorAll(".cases li")];
    const filter = () => {
      const [outcome, part] = [$("filter-outcome").value, $("filter-part").value];
      for (const card of cards) {
        const other = (wanted, own) => wanted !== "" && wanted !== own;
        card.hidden = other(outcome, card.dataset.outcome) || other(part, card.dataset.part);
      }
      $("filter-count").textContent = `${cards.filter((card) => !card.hidden).length} of ${cards.length}`;
    };
    filters.addEventListener("change", filter);
    $("opacity")?.addEventListener("input", (event) => {
      document.querySelector(".cases").style.setProperty("--opacity", event.target.value);
    });
    filters.hidden = false;
    filter();
  }

  if (!data.models) return;
  const labels = data.labels;
  const positives = labels.filter((label) => label === 1).length;
  const negatives = labels.length - positives;
  let model, threshold;

  const count = (limit) => {
    let found = 0, alarms = 0;
    model.probabilities.forEach((p, k) => {
      if (p >= limit) labels[k] ? found++ : alarms++;
    });
    return [found, alarms];
  };
  const icons = (id, share) => {
    const on = Math.round(100 * share);
    [...$(id).children].forEach((cell, k) => cell.classList.toggle("on", k < on));
    return on;
  };
  const percent = (x) => (Number.isFinite(x) ? `${(100 * x).toFixed(1)}\u00a0%` : "not defined");
  const round = (x) => (x > 1 ? "above 1" : String(Number(x.toPrecision(3))));

  const show = () => {
    const [found, alarms] = count(threshold);
    const [missed, cleared] = [positives - found, negatives - alarms];
    const sensitivity = found / positives, specificity = cleared / negatives;
    Object.entries({ tp: found, fn: missed, fp: alarms, tn: cleared }).forEach(([id, n]) => { $(id).textContent = n; });
    const m = icons("missed", positives ? missed / positives : 0);
    const a = icons("alarms", negatives ? alarms / negatives : 0);
    $("missed-text").textContent = `Of 100 ${data.positive} pictures it misses ${m}.`;
    $("alarms-text").textContent = `Of 100 normal pictures it alarms on ${a}.`;
    $("missed").setAttribute("aria-label", `${m} of 100 ${data.positive} pictures missed`);
    $("alarms").setAttribute("aria-label", `false alarms on ${a} of 100 normal pictures`);
    const chosen = threshold === model.threshold ? "its chosen threshold" : "a threshold";
    $("matrix-caption").textContent = `${model.name} at ${chosen} of ${round(threshold)}`;
    $("threshold-text").textContent = round(threshold);
    $("threshold").setAttribute("aria-valuetext", round(threshold));
    const share = Number($("prevalence").value) / 100;
    const ppv = sensitivity * share / (sensitivity * share + (1 - specificity) * (1 - share));
    const npv = specificity * (1 - share) / (specificity * (1 - share) + (1 - sensitivity) * share);
    $("values").textContent = `Sensitivity ${percent(sensitivity)}, specificity ${percent(specificity)}. ` +
      `A picture called ${data.positive} is so with ${percent(ppv)} (PPV), one called normal with ${percent(npv)} (NPV).`;
    const point = document.querySelector("#roc circle");
    point.setAttribute("cx", 100 * (1 - specificity) || 0);
    point.setAttribute("cy", 100 * (1 - sensitivity) || 0);
  };
  const move = (value) => {
    threshold = value;
    $("threshold").value = Math.min(value, 1);
    show();
  };
  const choose = () => {
    model = data.models.find((other) => other.name === $("model").value);
    const steps = [...new Set(model.probabilities)].sort((a, b) => b - a).map(count);
    const line = steps.map(([f, a]) => `L${(100 * a / negatives).toFixed(2)} ${(100 - 100 * f / positives).toFixed(2)}`);
    document.querySelector("#roc .curve").setAttribute("d", `M0 100${line.join("")}`);
    $("roc").setAttribute("aria-label", `ROC curve of ${model.name}, with a point at the threshold`);
    move(model.threshold);
  };
  const sensitive = () => {
    const sorted = [...new Set(model.probabilities)].sort((a, b) => b - a);
    return sorted.find((p) => count(p)[0] >= 0.95 * positives - 1e-9) ?? 0;
  };
  $("model").addEventListener("change", choose);
  $("threshold").addEventListener("input", () => { threshold = Number($("threshold").value); show(); });
  $("prevalence").addEventListener("input", show);
  $("preset-chosen").addEventListener("click", () => move(model.threshold));
  $("preset-sensitive").addEventListener("click", () => move(sensitive()));
  document.querySelector("#explorer .controls").hidden = false;
  choose();
})();
