// How both pages draw a mask: a tint of its colour and, along its edge, three lines that are seen on any image.
// A region is [x, y, width, height] in fractions of the image; it fills the context's canvas.
const WHOLE = [0, 0, 1, 1];
const TINT = 0.5;  // share of the colour inside a mask
// CSS pixels from the edge: a dark line outside it, a light line inside it, and further inside a line of the full colour
const DARK = 1, LIGHT = 1.5, COLOURED = 3.5;
const sheets = new Map();  // canvases to work on, by what for
function sheet(name, w, h, fill) {
  if (!sheets.has(name)) sheets.set(name, document.createElement("canvas"));
  const canvas = sheets.get(name), c = canvas.getContext("2d", { willReadFrequently: name === "levels" || name === "tint" });
  canvas.width = w; canvas.height = h;
  if (fill) { c.fillStyle = fill; c.fillRect(0, 0, w, h); }
  return c;
}
function drawRegion(c, image, [x, y, w, h], smooth = true) {
  c.imageSmoothingEnabled = smooth; c.imageSmoothingQuality = "high";
  c.drawImage(image, x * image.width, y * image.height, w * image.width, h * image.height, 0, 0, c.canvas.width, c.canvas.height);
}
function levels(w, h, image, region) { const c = sheet("levels", w, h); drawRegion(c, image, region); return c.getImageData(0, 0, w, h).data; }
const reach = canvas => [DARK, LIGHT, COLOURED].map(n => Math.max(1, Math.round(n * canvas.width / (canvas.clientWidth || canvas.width))));
// Draws the pixels whose level in layer.image, which is grey, exceeds layer.limit (0 to 255), except those of `without`.
function tintMask(c, layer, region = WHOLE, without = null) {
  if (layer.file && (!without || without.file)) { tintFile(c, layer, region, without); return; }
  const w = c.canvas.width, h = c.canvas.height, [r, g, b] = layer.colour, [dark, light, coloured] = reach(c.canvas), beyond = region[2] < 1;
  const q = levels(w, h, layer.image, region), other = without && levels(w, h, without.image, region);
  const on = i => q[i] > layer.limit && !(other && other[i] > without.limit);
  const at = (x, y, outside) => x >= 0 && y >= 0 && x < w && y < h ? on(4 * (y * w + x)) : outside;
  const within = (x, y, n) => at(x - n, y, beyond) && at(x + n, y, beyond) && at(x, y - n, beyond) && at(x, y + n, beyond);
  const near = (x, y, n) => at(x - n, y, false) || at(x + n, y, false) || at(x, y - n, false) || at(x, y + n, false);
  const t = sheet("tint", w, h), out = t.createImageData(w, h), p = out.data;
  for (let y = 0, i = 0; y < h; y++) for (let x = 0; x < w; x++, i += 4) {
    if (!on(i)) { if (near(x, y, dark)) p[i + 3] = 255; }
    else if (!within(x, y, light)) p[i] = p[i + 1] = p[i + 2] = p[i + 3] = 255;
    else { p[i] = r; p[i + 1] = g; p[i + 2] = b; p[i + 3] = within(x, y, coloured) ? 255 * TINT : 255; }
  }
  t.putImageData(out, 0, 0);
  c.drawImage(t.canvas, 0, 0);
}
// The same for layer.file, the run's mask as an image, whose pixels a page that was opened from disk may draw but not read.
function tintFile(c, layer, region, without) {
  const w = c.canvas.width, h = c.canvas.height, [dark, light, coloured] = reach(c.canvas), beyond = region[2] < 1 ? "#000" : "#fff";
  const blend = (into, mode, from, alpha = 1, x = 0, y = 0) => { into.globalCompositeOperation = mode; into.globalAlpha = alpha; into.drawImage(from.canvas, x, y); into.globalCompositeOperation = "source-over"; into.globalAlpha = 1; };
  const inverse = of => { const i = sheet("inverse", w, h, "#fff"); blend(i, "difference", of); return i; };
  const sharp = layer.file.width * region[2] * 2 > w, m = sheet("mask", w, h);
  drawRegion(m, layer.file, region, sharp);
  if (without) { const o = sheet("without", w, h); drawRegion(o, without.file, region, sharp); blend(m, "multiply", inverse(o)); }
  const out = inverse(m);
  // covers the pixels of a mask with a share of a colour: makes the image darker there, and adds the colour
  const cover = (pixels, colour, share) => {
    const shade = sheet("shade", w, h, "#fff"), lit = sheet("lit", w, h, `rgb(${colour.join(",")})`);
    blend(shade, "difference", pixels, share); blend(c, "multiply", shade);
    blend(lit, "multiply", pixels); blend(c, "lighter", lit, share);
  };
  // the pixels of a mask that are at most n pixels from another mask; `fill` is what that holds beyond the canvas
  const ring = (pixels, other, n, fill) => {
    const edge = sheet("edge", w, h, "#000");
    for (const [x, y] of [[n, 0], [-n, 0], [0, n], [0, -n]]) {
      const side = sheet("side", w, h, fill);
      blend(side, "source-over", other, 1, x, y); blend(side, "multiply", pixels); blend(edge, "lighten", side);
    }
    return edge;
  };
  cover(m, layer.colour, TINT);
  cover(ring(m, out, coloured, beyond), layer.colour, 1);
  cover(ring(m, out, light, beyond), [255, 255, 255], 1);
  cover(ring(out, m, dark, "#000"), [0, 0, 0], 1);
}
