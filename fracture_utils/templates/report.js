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
    const cards = [...document.querySelectorAll(".cards li")];
    const filter = () => {
      const outcome = $("outcome").value;
      for (const card of cards) card.hidden = outcome !== "" && outcome !== card.dataset.outcome;
      $("shown").textContent = `${cards.filter((card) => !card.hidden).length} of ${cards.length}`;
    };
    filters.addEventListener("change", filter);
    $("opacity")?.addEventListener("input", (event) => {
      $("errors").style.setProperty("--opacity", event.target.value);
    });
    filters.hidden = false;
    filter();
    const large = $("large");
    for (const layers of document.querySelectorAll(".cards .layers")) {
      layers.addEventListener("click", () => {
        const copy = layers.cloneNode(true), { naturalWidth, naturalHeight } = layers.firstChild;
        copy.title = "close";
        copy.style.width = `min(90vw, ${85 * naturalWidth / naturalHeight}vh)`;
        large.replaceChildren(copy);
        large.showModal();
      });
    }
    large.addEventListener("click", () => large.close());
  }

  let folded = [];  // opened for printing only
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    for (const details of folded) details.open = true;
  });
  addEventListener("afterprint", () => { for (const details of folded) details.open = false; });

  const { labels, positive } = data;
  const positives = labels.filter((label) => label === 1).length;
  const negatives = labels.length - positives;
  let model, threshold;

  const count = (limit) => {
    let tp = 0, fp = 0;
    model.probabilities.forEach((p, k) => { if (p >= limit) labels[k] ? tp++ : fp++; });
    return [tp, fp];
  };
  const icons = (id, share, kind, name) => {
    const on = Math.round(100 * share) || 0;
    [...$(`${id}-icons`).children].forEach((cell, k) => cell.classList.toggle("on", k < on));
    $(`${id}-text`).textContent = `${on} of 100 ${name} images: ${kind}`;
    $(`${id}-icons`).setAttribute("aria-label", `${on} of 100 ${name} images: ${kind}`);
  };
  const percent = (x) => (Number.isFinite(x) ? `${(100 * x).toFixed(1)}\u00a0%` : "undefined");
  const round = (x) => String(Number(x.toPrecision(3)));

  const show = () => {
    const [tp, fp] = count(threshold);
    const [fn, tn] = [positives - tp, negatives - fp];
    const sensitivity = tp / positives, specificity = tn / negatives;
    Object.entries({ tp, fn, fp, tn }).forEach(([id, n]) => { $(id).textContent = n; });
    icons("fn", fn / positives, "false negatives", positive);
    icons("fp", fp / negatives, "false positives", "normal");
    const name = threshold === model.threshold ? "reported threshold" : "threshold";
    $("matrix-caption").textContent = `${model.name}, ${name} ${round(threshold)}`;
    $("threshold-text").textContent = round(threshold);
    $("slider").setAttribute("aria-valuetext", round(threshold));
    const prevalence = Math.min(Math.max(Number($("prevalence").value) / 100, 0), 1);
    const ppv = sensitivity * prevalence / (sensitivity * prevalence + (1 - specificity) * (1 - prevalence));
    const npv = specificity * (1 - prevalence) / (specificity * (1 - prevalence) + (1 - sensitivity) * prevalence);
    $("values").textContent = `Sensitivity ${percent(sensitivity)}, specificity ${percent(specificity)}; ` +
      `at a prevalence of ${percent(prevalence)}: PPV ${percent(ppv)}, NPV ${percent(npv)}.`;
    const point = document.querySelector("#roc circle");
    point.setAttribute("cx", 100 * (1 - specificity) || 0);
    point.setAttribute("cy", 100 * (1 - sensitivity) || 0);
  };
  const move = (value) => {
    threshold = value;
    $("slider").value = Math.min(value, 1);
    show();
  };
  const choose = () => {
    model = data.models.find((other) => other.name === $("model").value);
    const steps = [...new Set(model.probabilities)].sort((a, b) => b - a).map(count);
    const line = steps.map(([tp, fp]) => `L${(100 * fp / negatives).toFixed(2)} ${(100 - 100 * tp / positives).toFixed(2)}`);
    if (positives && negatives) document.querySelector("#roc .curve").setAttribute("d", `M0 100${line.join("")}`);
    $("roc").setAttribute("aria-label", `ROC curve of ${model.name}, with a point at the threshold`);
    move(model.threshold);
  };
  const sensitive = () => {
    const sorted = [...new Set(model.probabilities)].sort((a, b) => b - a);
    return sorted.find((p) => count(p)[0] >= 0.95 * positives - 1e-9) ?? 0;
  };
  $("model").append(...data.models.map(({ name }) => new Option(name, name, false, name === data.selected)));
  $("prevalence").value = (100 * positives / labels.length).toFixed(1);
  $("model").addEventListener("change", choose);
  $("slider").addEventListener("input", () => { threshold = Number($("slider").value); show(); });
  $("prevalence").addEventListener("input", show);
  $("reported").addEventListener("click", () => move(model.threshold));
  $("sensitive").addEventListener("click", () => move(sensitive()));
  document.querySelector("#threshold .controls").hidden = $("explorer").hidden = false;
  choose();
})();
