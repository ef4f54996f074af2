"use strict";
// One cut through all volumes of the page: a click, a drag, an arrow key or a slider moves it everywhere.
window.addEventListener("load", () => {
  const page = JSON.parse(document.getElementById("page-data").textContent);
  const [across, deep, high] = page.shape;
  const axes = ["X", "Y", "Z"];
  const sliders = axes.map((axis) => document.getElementById("cut-" + axis));
  const outputs = axes.map((axis) => document.getElementById("mm-" + axis));
  const crosshair = document.getElementById("crosshair");
  let cut = page.cut.slice();

  // The planes side by side, in voxels: where each begins, its size, and the axes along its columns and its rows. The
  // patient's right is on the left of coronal and axial planes, and the top or the front is above.
  const planes = [
    {left: 0, width: deep, height: high, column: 1, row: 2},
    {left: deep, width: across, height: high, column: 0, row: 2},
    {left: deep + across, width: across, height: deep, column: 0, row: 1},
  ];
  const width = deep + 2 * across;
  const height = Math.max(high, deep);
  const top = (plane) => (height - plane.height) / 2;
  // Columns of the axis from right to left run against its index, and so do all rows.
  const columnOf = (plane, index) => (plane.column === 0 ? plane.width - 1 - index[0] : index[1]);
  const rowOf = (plane, index) => plane.height - 1 - index[plane.row];

  // A mosaic holds the sagittal slices, the last one first, tile by tile; rows from top to bottom.
  const pixelsOf = (image) => {
    const canvas = document.createElement("canvas");
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    const context = canvas.getContext("2d", {willReadFrequently: true});
    context.drawImage(image, 0, 0);
    return new Uint32Array(context.getImageData(0, 0, canvas.width, canvas.height).data.buffer);
  };

  const viewerOf = (key) => {
    const canvas = document.getElementById("canvas-" + key);
    const image = document.getElementById("sprite-" + key);
    const pixels = pixelsOf(image);
    const stride = image.naturalWidth;
    const perRow = Math.floor(stride / deep);
    const at = (x, y, z) => {
      const tile = across - 1 - x;
      const row = Math.floor(tile / perRow) * high + high - 1 - z;
      return pixels[row * stride + (tile % perRow) * deep + y];
    };
    const small = document.createElement("canvas");
    const draw = () => {
      const scale = Math.max(1, Math.round(canvas.clientWidth * (window.devicePixelRatio || 1))) / width;
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
      const context = canvas.getContext("2d");
      context.fillStyle = "#000";
      context.fillRect(0, 0, canvas.width, canvas.height);
      for (const plane of planes) {
        const slice = new ImageData(plane.width, plane.height);
        const out = new Uint32Array(slice.data.buffer);
        const index = cut.slice();
        for (let row = 0; row < plane.height; row++) {
          index[plane.row] = plane.height - 1 - row;
          for (let column = 0; column < plane.width; column++) {
            index[plane.column] = plane.column === 0 ? plane.width - 1 - column : column;
            out[row * plane.width + column] = at(index[0], index[1], index[2]);
          }
        }
        small.width = plane.width;
        small.height = plane.height;
        small.getContext("2d").putImageData(slice, 0, 0);
        const [x, y] = [plane.left * scale, top(plane) * scale];
        // Blurred like a light box instead of showing voxels as squares.
        context.imageSmoothingEnabled = true;
        context.drawImage(small, x, y, plane.width * scale, plane.height * scale);
        if (crosshair.checked) {
          context.fillStyle = "rgba(96, 176, 255, 0.45)";
          context.fillRect(x + (columnOf(plane, cut) + 0.5) * scale - 0.5, y, 1, plane.height * scale);
          context.fillRect(x, y + (rowOf(plane, cut) + 0.5) * scale - 0.5, plane.width * scale, 1);
        }
      }
    };
    const follow = (event) => {
      const box = canvas.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * width;
      const y = ((event.clientY - box.top) / box.height) * height;
      const plane = planes.findLast((one) => x >= one.left) || planes[0];
      const column = Math.min(plane.width - 1, Math.max(0, Math.floor(x - plane.left)));
      const row = Math.min(plane.height - 1, Math.max(0, Math.floor(y - top(plane))));
      const next = cut.slice();
      next[plane.column] = plane.column === 0 ? plane.width - 1 - column : column;
      next[plane.row] = plane.height - 1 - row;
      move(next);
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      follow(event);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (event.buttons & 1) follow(event);
    });
    const keys = {
      ArrowLeft: [0, 1], ArrowRight: [0, -1], PageUp: [1, 1], PageDown: [1, -1], ArrowUp: [2, 1], ArrowDown: [2, -1],
    };
    canvas.addEventListener("keydown", (event) => {
      if (!(event.key in keys)) return;
      event.preventDefault();
      const [axis, step] = keys[event.key];
      move(cut.map((index, other) => (other === axis ? index + step : index)));
    });
    return draw;
  };

  const viewers = page.viewers.map(viewerOf);
  const move = (next) => {
    cut = next.map((index, axis) => Math.min(page.shape[axis] - 1, Math.max(0, index)));
    axes.forEach((name, axis) => {
      const row = page.affine[axis];
      const mm = row[0] * cut[0] + row[1] * cut[1] + row[2] * cut[2] + row[3];
      const text = (Math.abs(mm) < 0.05 ? 0 : mm).toFixed(1).replace("-", "\u2212");
      sliders[axis].value = cut[axis];
      outputs[axis].textContent = text + " mm";
    });
    for (const draw of viewers) draw();
  };
  sliders.forEach((slider, axis) => slider.addEventListener("input", () => {
    move(cut.map((index, other) => (other === axis ? Number(slider.value) : index)));
  }));
  crosshair.addEventListener("change", () => move(cut));
  document.getElementById("large").addEventListener("change", (event) => {
    document.getElementById("viewers").classList.toggle("large", event.target.checked);
    move(cut);
  });
  window.addEventListener("resize", () => move(cut));
  move(cut);
  document.documentElement.dataset.ready = "true";
});
