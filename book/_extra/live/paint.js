// Paint mitochondria: a mask becomes an image, the image a mask again.
live.start((run) => {
  "use strict";

  const { size, paint: given } = run;
  const { element, colours } = live;
  const drawing = element("drawing");
  // Two workers, so that the next image need not wait for the verdicts on the last one.
  const { generator, ...judges } = synthsegSaved;
  const [generate, judge] = [synthsegWorker({ generator }), synthsegWorker(judges)];
  const area = (data, channels) => ({ height: size, width: size, channels, data });

  let mask = new Float32Array(size * size);
  let noise = 1; // its seed
  let undone = []; // earlier masks, the latest last
  let real = null; // number of the real mask that is shown, as long as nothing was drawn
  let cursor = [size / 2, size / 2];
  let focused = false;
  let shown = {}; // the last image, and what was computed from it

  // Drawing ------------------------------------------------------------------------------------

  const tool = () => document.querySelector("input[name=tool]:checked").value;
  const radius = () => (element("size").value * size) / 128 / 2;

  function fill(pixels, centre, radii, value) {
    for (let i = 0; i < size * size; i++) {
      const [x, y] = [(i % size) + 0.5 - centre[0], Math.floor(i / size) + 0.5 - centre[1]];
      if ((x / radii[0]) ** 2 + (y / radii[1]) ** 2 <= 1) pixels[i] = value;
    }
  }

  function stroke(from, to) {
    const steps = Math.ceil(Math.hypot(to[0] - from[0], to[1] - from[1])) || 1;
    for (let step = 0; step <= steps; step++) {
      const at = from.map((value, axis) => value + ((to[axis] - value) * step) / steps);
      fill(mask, at, [radius(), radius()], tool() === "eraser" ? 0 : 1);
    }
  }

  function remember() {
    undone.push(mask.slice());
    undone = undone.slice(-50);
    real = null;
  }

  function replace(pixels, number = null) {
    remember();
    mask = pixels;
    real = number;
    update();
  }

  function position(event) {
    const box = drawing.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height]
      .map((part) => part * size);
  }

  let begin = null; // where a stroke began, and the mask before it
  drawing.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    drawing.focus({ preventScroll: true });
    drawing.setPointerCapture(event.pointerId);
    remember();
    begin = { at: position(event), last: position(event), before: mask.slice() };
    move(event);
  });
  function move(event) {
    if (!begin) return;
    const at = position(event);
    if (tool() === "ellipse") {
      const centre = [0, 1].map((axis) => (begin.at[axis] + at[axis]) / 2);
      const radii = [0, 1].map((axis) => Math.max(1, Math.abs(begin.at[axis] - at[axis]) / 2));
      mask = begin.before.slice();
      fill(mask, centre, radii, 1);
    } else {
      stroke(begin.last, at);
    }
    begin.last = at;
    cursor = at;
    update();
  }
  drawing.addEventListener("pointermove", move);
  for (const end of ["pointerup", "pointercancel"]) {
    drawing.addEventListener(end, () => (begin = null));
  }

  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  drawing.addEventListener("keydown", (event) => {
    const way = arrows[event.key];
    if (way) {
      const far = event.shiftKey ? 8 : 2;
      cursor = cursor.map((value, axis) => Math.min(size, Math.max(0, value + far * way[axis])));
      showMask();
    } else if (event.key === " " || event.key === "Enter") {
      remember();
      if (tool() === "ellipse") fill(mask, cursor, [1.5 * radius(), radius()], 1);
      else stroke(cursor, cursor);
      update();
    } else {
      return;
    }
    event.preventDefault();
  });
  for (const change of ["focus", "blur"]) {
    drawing.addEventListener(change, () => {
      focused = change === "focus" && drawing.matches(":focus-visible");
      showMask();
    });
  }

  // Buttons ------------------------------------------------------------------------------------

  element("undo").onclick = () => {
    if (undone.length) mask = undone.pop();
    real = null;
    update();
  };
  element("clear").onclick = () => replace(new Float32Array(size * size));
  const next = { real: 0, composed: Math.floor(Math.random() * given.composed.length) };
  function take(kind) {
    const number = next[kind]++ % given[kind].length;
    replace(live.mask(given[kind][number]), kind === "real" ? number : null);
  }
  element("compose").onclick = () => take("composed");
  element("real").onclick = () => take("real");
  element("noise").disabled = !given.noise;
  element("noise").onclick = () => {
    noise++;
    update();
  };
  element("judge").onchange = element("outlines").onchange = () => update();

  // Computing ----------------------------------------------------------------------------------

  // Calls that come while the task is under way make it begin once more at its end.
  function repeatable(task) {
    let [busy, again] = [false, false];
    return async () => {
      again = true;
      if (busy) return;
      busy = true;
      while (again) {
        again = false;
        await task();
      }
      busy = false;
    };
  }

  const draw = repeatable(async () => {
    const begun = performance.now();
    const pixels = mask.slice();
    const random = given.noise ? live.gaussian(noise, size * size) : [];
    const channels = given.noise ? 2 : 1;
    const input = new Float32Array(size * size * channels);
    for (let i = 0; i < size * size; i++) {
      input[i * channels] = pixels[i];
      if (given.noise) input[i * channels + 1] = random[i];
    }
    const image = await generate("generator", area(input, channels));
    const seconds = (performance.now() - begun) / 1000;
    shown = { pixels, image, seconds, judged: shown.judged }; // until the new verdict comes
    showImage();
    find();
  });

  const find = repeatable(async () => {
    const current = shown;
    const { image, pixels } = current;
    const found = (await judge("segmenter", image)).data.map((logit) => (logit > 0 ? 1 : 0));
    showFound(image, pixels, found);
    const asked = element("judge").checked;
    if (!asked && !current.judged) return;
    current.judged = asked ? await judge("discriminator", area(pixels, 1), image) : null;
    if (shown === current) showImage();
  });

  function update() {
    showMask();
    draw();
  }

  // Showing ------------------------------------------------------------------------------------

  function showMask() {
    live.paint(drawing, size, (i) => (mask[i] ? [255, 255, 255, 255] : [0, 0, 0, 255]));
    if (!focused) return;
    const context = drawing.getContext("2d");
    context.strokeStyle = "#d55e00";
    context.beginPath();
    context.arc(...cursor, radius(), 0, 2 * Math.PI);
    context.stroke();
  }

  const grey = (value) => 127.5 * (value + 1);

  function showImage() {
    const { image, pixels, judged, seconds } = shown;
    live.paint(element("image"), size, (i) => [...Array(3).fill(grey(image.data[i])), 255]);
    if (judged) {
      const logits = run.adversarial === "bce";
      const percent = (value) => 100 * (logits ? 1 / (1 + Math.exp(-value)) : Math.min(1, Math.max(0, value)));
      const values = judged.data.map(percent);
      live.overlay(element("image"), { side: judged.width, values });
      const mean = values.reduce((sum, value) => sum + value, 0) / values.length / 100;
      element("verdict").textContent = `D's mean probability of being real: ${mean.toFixed(2)}.`;
    } else {
      element("verdict").textContent = "";
    }
    if (element("outlines").checked) live.outline(element("image"), pixels, colours.missed);
    element("seconds").textContent = `${seconds.toFixed(2)} s`;
    element("real-panel").hidden = real === null;
    if (real !== null) {
      const column = real;
      sheet.then((all) => live.tile(element("real-image"), all, size, column, 0));
    }
  }

  function showFound(image, pixels, found) {
    let [both, missed, extra] = [0, 0, 0];
    live.paint(element("found"), size, (i) => {
      const value = grey(image.data[i]);
      const kind = pixels[i] ? (found[i] ? "both" : "missed") : found[i] ? "extra" : "neither";
      if (kind === "both") both++;
      if (kind === "missed") missed++;
      if (kind === "extra") extra++;
      if (kind === "neither") return [value, value, value, 255];
      const tint = kind === "both" ? [255, 255, 255] : colours[kind];
      return [...tint.map((part) => 0.5 * part + 0.5 * value), 255];
    });
    const all = 2 * both + missed + extra;
    element("dice").textContent = all ? ((2 * both) / all).toFixed(3) : "none (nothing drawn or found)";
  }

  const sheet = live.sheet("paint-real");
  take("composed");
  undone = [];
});
