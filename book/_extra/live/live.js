// What the three pages share. The run that they show is `synthsegRun`, from run/run.js.
const live = (() => {
  "use strict";

  const colours = { missed: [230, 159, 0], extra: [86, 180, 233], fake: [213, 94, 0] };

  const element = (id) => document.getElementById(id);

  function bytes(text) {
    return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  }

  // A stored mask, a bit a pixel, as numbers 0 and 1.
  function mask(text) {
    const packed = bytes(text);
    return Float32Array.from({ length: 8 * packed.length }, (_, i) => (packed[i >> 3] >> (7 - (i & 7))) & 1);
  }

  // The n-th of several stored maps of probabilities: its side, and its values in percent.
  function map({ side, values }, n) {
    return { side, values: bytes(values).subarray(n * side * side, (n + 1) * side * side) };
  }

  // Small numbers that a seed determines, evenly from 0 to 1 (the generator "mulberry32").
  function uniform(seed) {
    let state = seed;
    return () => {
      state = (state + 0x6d2b79f5) | 0;
      let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
      mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
      return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
    };
  }

  function gaussian(seed, count) {
    const draw = uniform(seed);
    const length = () => Math.sqrt(-2 * Math.log(1 - draw()));
    return Float32Array.from({ length: count }, () => length() * Math.cos(2 * Math.PI * draw()));
  }

  // Fill a canvas from a function that gives the red, green, blue and opacity of each pixel.
  function paint(canvas, size, colour) {
    canvas.width = canvas.height = size;
    const context = canvas.getContext("2d");
    const picture = context.createImageData(size, size);
    for (let i = 0; i < size * size; i++) picture.data.set(colour(i), 4 * i);
    context.putImageData(picture, 0, 0);
  }

  // Lay a colour over a canvas where an image is rather generated than real, by a map in percent. At
  // most half of it, so that the image can be seen.
  function overlay(canvas, { side, values }) {
    const small = document.createElement("canvas");
    paint(small, side, (i) => [...colours.fake, 2.5 * Math.max(0, 50 - values[i])]);
    canvas.getContext("2d").drawImage(small, 0, 0, canvas.width, canvas.height);
  }

  // Draw the outline of a mask over a canvas.
  function outline(canvas, pixels, [red, green, blue]) {
    const size = canvas.width;
    const context = canvas.getContext("2d");
    context.fillStyle = `rgb(${red} ${green} ${blue})`;
    for (let i = 0; i < size * size; i++) {
      const inside = (x, y) => x < 0 || y < 0 || x >= size || y >= size || pixels[y * size + x] > 0;
      const [x, y] = [i % size, Math.floor(i / size)];
      const neighbours = [[x - 1, y], [x + 1, y], [x, y - 1], [x, y + 1]];
      if (pixels[i] > 0 && !neighbours.every(([a, b]) => inside(a, b))) context.fillRect(x, y, 1, 1);
    }
  }

  function sheet(name) {
    const image = new Image();
    image.src = `live/run/${name}.png`;
    return image.decode().then(() => image);
  }

  // Copy one tile of a sheet of images to a canvas.
  function tile(canvas, image, size, column, row) {
    canvas.width = canvas.height = size;
    const context = canvas.getContext("2d");
    context.drawImage(image, column * size, row * size, size, size, 0, 0, size, size);
  }

  // A message in place of the page, where its run is missing.
  function start(page) {
    if (typeof synthsegRun === "undefined" || synthsegRun.missing) {
      const reason = typeof synthsegRun === "undefined" ? "" : synthsegRun.missing;
      element("live").innerHTML = `<p role="alert">This page has no networks to show. ${reason}</p>`;
      return;
    }
    page(synthsegRun);
    made(synthsegRun);
  }

  function made({ made: runs, data, nm, size }) {
    const width = ((size * nm) / 1000).toFixed(1);
    const listed = runs.map((run) =>
      `<a href="live/run/${run.chapter}.card.json">${run.chapter}</a> (profile ${run.profile}, ` +
      `key ${run.key.slice(0, 8)}, commit ${run.commit ?? "unknown"}, ${run.finished.slice(0, 10)})`);
    element("live-made").innerHTML =
      `Images are ${size} pixels (${width} µm) wide, ${nm} nm a pixel. Made from the runs ` +
      `${listed.join(" and ")} on the data ${data.name} (${data.fingerprint}); one seed. ` +
      "Each link opens the run card.";
  }

  return { colours, element, mask, map, uniform, gaussian, paint, overlay, outline, sheet, tile, start };
})();
