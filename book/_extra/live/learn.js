// Watch the GAN learn: the images of a few masks, snapshot by snapshot.
live.start((run) => {
  "use strict";

  const { size, learn: { masks, gans } } = run;
  const { element } = live;
  const names = Object.keys(gans);
  const titles = { gan: "ours", "gan-original": "the original's settings" };
  const outlines = masks.map(live.mask);
  const steps = gans.gan.step;
  const last = steps.length - 1;

  function add(parent, tag, properties = {}) {
    const child = Object.assign(document.createElement(tag), properties);
    parent.append(child);
    return child;
  }

  // One row a mask: the mask, an image by each GAN, the real one.
  const table = element("grid");
  const head = add(add(table, "thead"), "tr");
  for (const title of ["mask", ...names.map((name) => titles[name]), "real"]) {
    add(head, "th", { scope: "col", textContent: title });
  }
  const body = add(table, "tbody");
  const canvases = masks.map((_, n) => {
    const row = add(body, "tr");
    const cell = (what) => {
      const canvas = add(add(row, "td"), "canvas", { width: size, height: size });
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `${what} ${n + 1}`);
      return canvas;
    };
    const row_ = { mask: cell("Mask") };
    for (const name of names) row_[name] = cell(`Image by ${titles[name]} for mask`);
    row_.real = cell("Real image of mask");
    live.paint(row_.mask, size, (i) => Array(3).fill(255 * outlines[n][i]).concat(255));
    return row_;
  });

  // Curves: the discriminator's mean probability for real and for generated images.
  const [wide, high] = [320, 130];
  const place = (step, value) => [(40 + (270 * step) / steps[last]).toFixed(1), (10 + 95 * (1 - value)).toFixed(1)];
  const markers = {};
  for (const name of names) {
    const line = (column) => gans[name][column].map((value, i) => place(steps[i], value)).join(" ");
    const figure = add(element("curves"), "figure");
    figure.innerHTML = `
      <svg viewBox="0 0 ${wide} ${high}" role="img" aria-label="Mean probability of being real by D, against the step: ${titles[name]}">
        <path class="axis" d="M40 10 V105 H312"/>
        <text x="34" y="14" text-anchor="end">1</text><text x="34" y="108" text-anchor="end">0</text>
        <text x="310" y="124" text-anchor="end">step ${steps[last]}</text>
        <polyline class="on-real" points="${line("d_real")}"/>
        <polyline class="on-fake" points="${line("d_fake")}"/>
        <path class="now" d="M0 10 V105"/>
      </svg>
      <figcaption>${titles[name]}: <span></span></figcaption>`;
    markers[name] = { line: figure.querySelector(".now"), text: figure.querySelector("span") };
  }

  // What differs between the settings.
  if (names.length > 1) {
    const [ours, theirs] = names.map((name) => gans[name].settings);
    const differing = Object.keys(ours).filter((key) => ours[key] !== theirs[key]);
    element("settings").innerHTML =
      "<thead><tr><th>setting</th><th>ours</th><th>original's</th></tr></thead><tbody>" +
      differing.map((key) => `<tr><td>${key}</td><td>${ours[key]}</td><td>${theirs[key]}</td></tr>`).join("") +
      "</tbody>";
  }

  const slider = element("moment");
  slider.max = last;
  const names_ = [...names.map((name) => `learn-${name}`), "learn-real"];
  Promise.all(names_.map(live.sheet)).then((sheets) => {
    function show() {
      const moment = Number(slider.value);
      const judge = element("judge").checked;
      element("step").textContent = `step ${steps[moment]} of ${steps[last]}`;
      slider.setAttribute("aria-valuetext", element("step").textContent);
      canvases.forEach((row, n) => {
        names.forEach((name, g) => {
          live.tile(row[name], sheets[g], size, n, moment);
          if (judge) live.overlay(row[name], live.map(gans[name].maps, 2 * moment * masks.length + n));
        });
        live.tile(row.real, sheets.at(-1), size, n, 0);
        if (judge) live.overlay(row.real, live.map(gans.gan.maps, (2 * moment + 1) * masks.length + n));
      });
      for (const name of names) {
        const { d_real: real, d_fake: fake, l1 } = gans[name];
        const { line, text } = markers[name];
        line.setAttribute("transform", `translate(${place(steps[moment], 0)[0]} 0)`);
        text.textContent =
          `D gives real images ${real[moment].toFixed(2)}, generated ones ${fake[moment].toFixed(2)}; ` +
          `L1 is ${l1[moment].toFixed(3)}`;
      }
    }

    let timer = null;
    const play = element("play");
    function stop() {
      clearInterval(timer);
      timer = null;
      play.textContent = "Play";
    }
    play.onclick = () => {
      if (timer) return stop();
      if (Number(slider.value) === last) slider.value = 0;
      play.textContent = "Stop";
      show();
      timer = setInterval(() => {
        slider.value = Number(slider.value) + 1;
        show();
        if (Number(slider.value) === last) stop();
      }, 700);
    };
    slider.oninput = () => {
      stop();
      show();
    };
    element("judge").onchange = show;
    show();
  });
});
