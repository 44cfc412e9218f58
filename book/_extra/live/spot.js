// Spot the fake: real or generated? The reader's verdicts beside the discriminator's.
live.start((run) => {
  "use strict";

  const { size, spot: { real, masks, probability, maps, grain } } = run;
  const { element, colours } = live;
  const columns = 10; // of the sheet
  const questions = 20;
  const isReal = (crop) => crop < real;
  const realGrain = grain.slice(0, real).sort((a, b) => a - b);

  live.sheet("spot").then((sheet) => {
    const show = (canvas, crop) => live.tile(canvas, sheet, size, crop % columns, Math.floor(crop / columns));
    let order = [];
    let answers = [];

    function begin() {
      order = masks.map((_, crop) => [Math.random(), crop]).sort((a, b) => a[0] - b[0]);
      order = order.slice(0, questions).map(([, crop]) => crop);
      answers = [];
      element("end").hidden = true;
      element("game").hidden = false;
      ask();
    }

    function ask() {
      show(element("crop"), order[answers.length]);
      element("progress").textContent = `Crop ${answers.length + 1} of ${questions}`;
    }

    function answer(saysReal) {
      if (element("game").hidden) return;
      answers.push(saysReal);
      if (answers.length < questions) ask();
      else end();
    }

    function end() {
      const right = (verdict) => order.filter((crop, n) => verdict(crop, n) === isReal(crop)).length;
      const yours = right((crop, n) => answers[n]);
      const theirs = right((crop) => probability[crop] >= 0.5);
      element("game").hidden = true;
      element("end").hidden = false;
      element("score").textContent =
        `You were right about ${yours} of ${questions} crops, the discriminator about ${theirs}.`;
      element("answers").replaceChildren(...order.map((crop, n) => describe(crop, answers[n])));
      element("score").focus();
    }

    function describe(crop, saidReal) {
      const item = document.createElement("li");
      const word = (value) => (value ? "real" : "generated");
      const range = [realGrain[0], realGrain.at(-1)];
      const outside = grain[crop] < range[0] || grain[crop] > range[1];
      const verdict = saidReal === isReal(crop) ? "right" : "wrong";
      item.className = verdict;
      item.innerHTML = `<canvas role="img"></canvas><p><strong>${word(isReal(crop))}</strong>; you said
        ${word(saidReal)}: ${verdict}. D: ${probability[crop].toFixed(2)}. Grain
        ${grain[crop].toFixed(1)}${outside ? ", which no real crop has" : ""}.</p>`;
      const canvas = item.querySelector("canvas");
      canvas.setAttribute("aria-label", `Crop, ${word(isReal(crop))}, with its mask and D's map`);
      show(canvas, crop);
      live.overlay(canvas, live.map(maps, crop));
      live.outline(canvas, live.mask(masks[crop]), colours.missed);
      return item;
    }

    element("range").textContent = `${realGrain[0].toFixed(1)} to ${realGrain.at(-1).toFixed(1)}`;
    element("says-real").onclick = () => answer(true);
    element("says-fake").onclick = () => answer(false);
    element("again").onclick = begin;
    element("game").addEventListener("keydown", (event) => {
      if (event.key === "r" || event.key === "ArrowLeft") answer(true);
      if (event.key === "g" || event.key === "ArrowRight") answer(false);
    });
    begin();
  });
});
