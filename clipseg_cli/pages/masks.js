// How both pages draw a mask: a tint of its colour and a white edge.
// A region is [x, y, width, height] in fractions of the image; it fills the context's canvas.
const WHOLE = [0, 0, 1, 1];
const TINT = 0.5;  // share of the colour inside a mask
const RIM = 1.5;  // CSS pixels: width of the edge
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
const rimWidth = canvas => Math.max(1, Math.round(RIM * canvas.width / (canvas.clientWidth || canvas.width)));
// Tints the pixels whose level in layer.image, which is grey, exceeds layer.limit (0 to 255), except those of `without`.
function tintMask(c, layer, region = WHOLE, without = null) {
  if (layer.file && (!without || without.file)) { tintFile(c, layer, region, without); return; }
  const w = c.canvas.width, h = c.canvas.height, [r, g, b] = layer.colour, n = rimWidth(c.canvas), beyond = region[2] < 1;
  const q = levels(w, h, layer.image, region), other = without && levels(w, h, without.image, region);
  const on = i => q[i] > layer.limit && !(other && other[i] > without.limit);
  const inside = (x, y) => x >= 0 && y >= 0 && x < w && y < h ? on(4 * (y * w + x)) : beyond;
  const t = sheet("tint", w, h), out = t.createImageData(w, h), p = out.data;
  for (let y = 0, i = 0; y < h; y++) for (let x = 0; x < w; x++, i += 4) if (on(i)) {
    const rim = !inside(x - n, y) || !inside(x + n, y) || !inside(x, y - n) || !inside(x, y + n);
    if (rim) { p[i] = p[i + 1] = p[i + 2] = p[i + 3] = 255; }
    else { p[i] = r; p[i + 1] = g; p[i + 2] = b; p[i + 3] = 255 * TINT; }
  }
  t.putImageData(out, 0, 0);
  c.drawImage(t.canvas, 0, 0);
}
// The same for layer.file, the run's mask as an image, whose pixels a page that was opened from disk may draw but not read.
function tintFile(c, layer, region, without) {
  const w = c.canvas.width, h = c.canvas.height, n = rimWidth(c.canvas), whole = region[2] >= 1;
  const blend = (into, mode, from, alpha = 1, x = 0, y = 0) => { into.globalCompositeOperation = mode; into.globalAlpha = alpha; into.drawImage(from.canvas, x, y); into.globalCompositeOperation = "source-over"; into.globalAlpha = 1; };
  const inverse = (name, of) => { const i = sheet(name, w, h, "#fff"); blend(i, "difference", of); return i; };
  const sharp = layer.file.width * region[2] * 2 > w, m = sheet("mask", w, h);
  drawRegion(m, layer.file, region, sharp);
  if (without) { const o = sheet("without", w, h); drawRegion(o, without.file, region, sharp); blend(m, "multiply", inverse("outside", o)); }
  const shade = sheet("shade", w, h, "#fff"), light = sheet("light", w, h, `rgb(${layer.colour.join(",")})`), edge = sheet("edge", w, h, "#000"), out = inverse("outside", m);
  blend(shade, "difference", m, TINT); blend(c, "multiply", shade);  // the image, darker inside the mask
  blend(light, "multiply", m); blend(c, "lighter", light, TINT);  // plus the colour
  for (const [x, y] of [[n, 0], [-n, 0], [0, n], [0, -n]]) {
    const side = sheet("side", w, h, whole ? "#fff" : "#000");
    blend(side, "source-over", out, 1, x, y); blend(side, "multiply", m); blend(edge, "lighten", side);
  }
  blend(c, "lighter", edge);
}
