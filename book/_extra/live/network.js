// Computes the small networks of this book in the browser, as Keras computes them.
//
// A network is a list of steps; each names its operation and the steps that it takes its input
// from, by number. Images are {height, width, channels, data}, the data row by row, a pixel's
// channels side by side. `workflow/export.py` writes the steps; this file knows all that it may write.
//
// Everything is within one function, so that its text alone makes a worker: a page that was opened
// from a folder (file://) may not load one from a file.
function synthsegNetworks() {
  "use strict";

  function blank(height, width, channels) {
    return { height, width, channels, data: new Float32Array(height * width * channels) };
  }

  function map(image, compute) {
    return { ...image, data: image.data.map(compute) };
  }

  // The image with zeros around it, and some behind it, since pixels are computed four at a time.
  function pad(image, top, left, height, width) {
    const { channels } = image;
    const data = new Float32Array((height * width + 8) * channels);
    for (let row = 0; row < image.height; row++) {
      const from = row * image.width * channels;
      const line = image.data.subarray(from, from + image.width * channels);
      data.set(line, ((row + top) * width + left) * channels);
    }
    return data;
  }

  // A convolution with "same" padding. In memory, a line of a patch (side * channels numbers) and a
  // line of a kernel are both without gaps: what is left is to multiply and add. Four pixels and
  // two filters at a time use each number that was read more than once.
  function convolve(image, { side, stride, filters, kernel, bias, before }) {
    const { channels } = image;
    const height = Math.ceil(image.height / stride);
    const width = Math.ceil(image.width / stride);
    const missing = (outputs, size) => Math.max((outputs - 1) * stride + side - size, 0);
    const [top, left] = before ?? [missing(height, image.height) >> 1, missing(width, image.width) >> 1];
    const wide = Math.max((width - 1) * stride + side, image.width + left);
    const high = Math.max((height - 1) * stride + side, image.height + top);
    const input = pad(image, top, left, high, wide);
    const output = blank(height, width, filters);
    const { data } = output;
    const span = side * channels;
    const [next, line, whole] = [stride * channels, wide * channels, side * span];
    for (let row = 0; row < height; row++) {
      for (let column = 0; column < width; column += 4) {
        const start = (row * stride * wide + column * stride) * channels;
        const count = Math.min(4, width - column);
        for (let filter = 0; filter < filters; filter += 2) {
          let a0 = bias[filter], a1 = a0, a2 = a0, a3 = a0;
          let b0 = bias[filter + 1], b1 = b0, b2 = b0, b3 = b0;
          for (let y = 0; y < side; y++) {
            let w = filter * whole + y * span;
            let x = start + y * line;
            for (const end = x + span; x < end; x++, w++) {
              const a = kernel[w], b = kernel[w + whole];
              const x0 = input[x], x1 = input[x + next];
              const x2 = input[x + 2 * next], x3 = input[x + 3 * next];
              a0 += a * x0;
              a1 += a * x1;
              a2 += a * x2;
              a3 += a * x3;
              b0 += b * x0;
              b1 += b * x1;
              b2 += b * x2;
              b3 += b * x3;
            }
          }
          const [as, bs] = [[a0, a1, a2, a3], [b0, b1, b2, b3]];
          for (let pixel = 0; pixel < count; pixel++) {
            const place = (row * width + column + pixel) * filters + filter;
            data[place] = as[pixel];
            if (filter + 1 < filters) data[place + 1] = bs[pixel];
          }
        }
      }
    }
    return output;
  }

  // The same as to repeat each pixel twice along rows and columns, and then to convolve with a kernel
  // of 3 x 3: some weights meet the same pixel. For each place in a doubled pixel, a kernel of 2 x 2
  // has their sums, so that less than half of the products are left.
  function doubleAndConvolve(image, { filters, places }) {
    const output = blank(2 * image.height, 2 * image.width, filters);
    for (const place of places) {
      const [down, right] = place.before.map((missing) => 1 - missing);
      const { data } = convolve(image, place);
      for (let i = 0, row = 0; row < image.height; row++) {
        for (let column = 0; column < image.width; column++) {
          const to = ((2 * row + down) * output.width + 2 * column + right) * filters;
          for (let k = 0; k < filters; k++) output.data[to + k] = data[i++];
        }
      }
    }
    return output;
  }

  function sumsOfWeights(step) {
    const { channels, filters, kernel } = step;
    const taken = [[0, 1, 1], [0, 0, 1]]; // by the three rows (or columns) of the kernel
    const places = [[0, 0], [0, 1], [1, 0], [1, 1]].map(([down, right]) => {
      const sums = new Float32Array((filters + 1) * 4 * channels);
      for (let i = 0; i < filters * 9 * channels; i++) {
        const [filter, tap] = [Math.floor(i / (9 * channels)), Math.floor(i / channels) % 9];
        const [y, x] = [taken[down][Math.floor(tap / 3)], taken[right][tap % 3]];
        sums[(filter * 4 + 2 * y + x) * channels + (i % channels)] += kernel[i];
      }
      return { ...step, side: 2, kernel: sums, before: [1 - down, 1 - right] };
    });
    return { ...step, operation: "doubleAndConvolve", places };
  }

  // Each pixel `size` times along rows and columns, or once, with zeros between.
  function enlarge(image, size, repeat) {
    const { channels, width } = image;
    const output = blank(image.height * size, width * size, channels);
    const step = repeat ? 1 : size;
    for (let row = 0; row < output.height; row += step) {
      for (let column = 0; column < output.width; column += step) {
        const from = (Math.floor(row / size) * width + Math.floor(column / size)) * channels;
        const to = (row * output.width + column) * channels;
        for (let k = 0; k < channels; k++) output.data[to + k] = image.data[from + k];
      }
    }
    return output;
  }

  function average(image, size) {
    const { channels, width } = image;
    const output = blank(image.height / size, width / size, channels);
    for (let row = 0; row < image.height; row++) {
      for (let column = 0; column < width; column++) {
        const from = (row * width + column) * channels;
        const pixel = Math.floor(row / size) * output.width + Math.floor(column / size);
        for (let k = 0; k < channels; k++) {
          output.data[pixel * channels + k] += image.data[from + k] / (size * size);
        }
      }
    }
    return output;
  }

  function concatenate(images) {
    const channels = images.reduce((sum, image) => sum + image.channels, 0);
    const output = blank(images[0].height, images[0].width, channels);
    let offset = 0;
    for (const image of images) {
      for (let from = 0, to = offset; from < image.data.length; to += channels) {
        for (let k = 0; k < image.channels; k++) output.data[to + k] = image.data[from++];
      }
      offset += image.channels;
    }
    return output;
  }

  // Each channel times a scale and plus a shift.
  function affine(image, scale, shift) {
    const { channels } = image;
    return map(image, (value, i) => value * scale[i % channels] + shift[i % channels]);
  }

  // Each channel of the image with mean 0 and variance 1, then times gamma and plus beta.
  function normalise(image, { gamma, beta, epsilon }) {
    const { channels, data } = image;
    const [pixels, scale, shift] = [image.height * image.width, [], []];
    for (let k = 0; k < channels; k++) {
      let [sum, squares] = [0, 0];
      for (let i = k; i < data.length; i += channels) sum += data[i];
      const mean = sum / pixels;
      for (let i = k; i < data.length; i += channels) squares += (data[i] - mean) ** 2;
      scale.push(gamma[k] / Math.sqrt(squares / pixels + epsilon));
      shift.push(beta[k] - mean * scale[k]);
    }
    return affine(image, scale, shift);
  }

  const operations = {
    convolve: ([image], step) => convolve(image, step),
    doubleAndConvolve: ([image], step) => doubleAndConvolve(image, step),
    normalise: ([image], step) => normalise(image, step),
    affine: ([image], { scale, shift }) => affine(image, scale, shift),
    leaky: ([image], { slope }) => map(image, (value) => (value < 0 ? slope * value : value)),
    tanh: ([image]) => map(image, Math.tanh),
    repeat: ([image], { size }) => enlarge(image, size, true),
    stretch: ([image], { size }) => enlarge(image, size, false),
    average: ([image], { size }) => average(image, size),
    concatenate: (images) => concatenate(images),
    same: ([image]) => image,
  };

  // Kernels come as whole numbers of 16 bits with a scale each, in base64. For the loop above they
  // are put filter by filter, with one more of zeros where the number of filters is odd.
  function load({ steps, kernels }) {
    const bytes = Uint8Array.from(atob(kernels), (letter) => letter.charCodeAt(0));
    const numbers = new Int16Array(bytes.buffer);
    let begin = 0;
    const loaded = steps.map((step) => {
      if (step.operation !== "convolve") return step;
      const { filters, scale } = step;
      const length = step.side * step.side * step.channels;
      const kernel = new Float32Array((filters + 1) * length);
      for (let i = 0; i < filters * length; i++) {
        kernel[(i % filters) * length + Math.floor(i / filters)] = numbers[begin + i] * scale;
      }
      begin += filters * length;
      return { ...step, kernel, bias: [...step.bias, 0] };
    });
    return loaded.map((step) => {
      const source = step.from.length === 1 && loaded[step.from[0]];
      const doubled = source?.operation === "repeat" && source.size === 2;
      if (!doubled || step.operation !== "convolve" || step.side !== 3) return step;
      return { ...sumsOfWeights(step), from: source.from };
    });
  }

  // The image of the last step, and those that it needs. Inputs are in the network's order.
  function run(steps, inputs) {
    const images = [...inputs];
    function image(number) {
      const step = steps[number];
      return (images[number] ??= operations[step.operation](step.from.map(image), step));
    }
    return image(steps.length - 1);
  }

  return { load, run };
}

// A worker that loads networks by name, and computes without holding up the page. Its function
// takes a network's name and its input images, and promises the output image.
function synthsegWorker(networks) {
  const answer = `
    const { load, run } = (${synthsegNetworks})();
    const loaded = {};
    onmessage = ({ data: { networks, name, inputs } }) => {
      if (networks) {
        for (const key in networks) loaded[key] = load(networks[key]);
      } else {
        postMessage(run(loaded[name], inputs));
      }
    };`;
  const text = new Blob([answer], { type: "text/javascript" });
  const worker = new Worker(URL.createObjectURL(text));
  worker.postMessage({ networks });
  const waiting = [];
  worker.onmessage = ({ data }) => waiting.shift()(data);
  return (name, ...inputs) =>
    new Promise((resolve) => {
      waiting.push(resolve);
      worker.postMessage({ name, inputs });
    });
}
