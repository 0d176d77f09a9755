// An enlarged image in one canvas or, side by side, in several with the same view. The wheel, two fingers, a double
// click and the keys + - 0 zoom; dragging and the arrow keys pan, if `pans()`. draw(canvas, region) draws what is visible.
const MAGNIFIED = 8;  // CSS pixels per image pixel at the most
class Zoom {
  constructor(area, draw, pans = () => true) {
    Object.assign(this, { area, draw, pans, z: 1, x: 0.5, y: 0.5, size: null, pointers: new Map(), due: false });
    area.addEventListener("wheel", e => { if (this.size) { e.preventDefault(); this.by(Math.exp(-e.deltaY * (e.deltaMode ? 0.05 : 0.0015)), e); } }, { passive: false });
    area.addEventListener("dblclick", e => { if (this.pans()) this.z > 1 ? this.fit() : this.by(Math.max(2, this.full), e); });
    area.addEventListener("pointerdown", e => { if (e.target.tagName !== "CANVAS") return; this.pointers.set(e.pointerId, [e.clientX, e.clientY]); if (this.pans()) e.target.setPointerCapture(e.pointerId); });
    area.addEventListener("pointermove", e => this.drag(e));
    for (const name of ["pointerup", "pointercancel"]) area.addEventListener(name, e => this.pointers.delete(e.pointerId));
    addEventListener("resize", () => { if (this.size) this.layout(); });
  }
  get canvases() { return [...this.area.querySelectorAll("canvas")]; }
  // what is visible, on whole pixels of the screen: at 1:1 these are then the image's own, unblurred
  get region() {
    const [canvas] = this.canvases, part = (centre, pixels, length) => {
      const all = length * this.scale * devicePixelRatio * this.z, share = Math.min(1, pixels / all);
      return [Math.round(Math.min(Math.max(0, centre - share / 2), 1 - share) * all) / all, share];
    };
    const [x, w] = part(this.x, canvas.width, this.size[0]), [y, h] = part(this.y, canvas.height, this.size[1]);
    return [x, y, w, h];
  }
  // whether two fingers are down
  get pinching() { return this.pointers.size > 1; }
  // shows an image of width x height pixels; keeps the view if `same`
  open(width, height, same = false) { this.size = [width, height]; if (!same) Object.assign(this, { z: 1, x: 0.5, y: 0.5 }); this.pointers.clear(); this.layout(); }
  close() { this.size = null; }
  layout() {
    const [w, h] = this.size, list = this.canvases, room = Math.min(innerWidth * 0.96, document.documentElement.clientWidth) - 28;
    const across = room > 600 ? list.length : 1, down = list.length / across;
    const scale = Math.min((room - 8 * (across - 1)) / across / w, (innerHeight * 0.66 - 8 * (down - 1)) / down / h, Math.max(1, 480 / Math.max(w, h)));
    for (const canvas of list) {
      canvas.width = Math.max(1, Math.round(w * scale * devicePixelRatio)); canvas.height = Math.max(1, Math.round(h * scale * devicePixelRatio));
      canvas.style.width = canvas.width / devicePixelRatio + "px"; canvas.style.height = canvas.height / devicePixelRatio + "px";
    }
    this.scale = scale; this.set();
  }
  // the zoom at which one image pixel is one pixel of the screen
  get full() { return Math.max(1, 1 / (this.scale * devicePixelRatio)); }
  get most() { return Math.max(4, MAGNIFIED / this.scale); }
  set() {
    this.z = Math.min(Math.max(1, this.z), this.most);
    const half = 0.5 / this.z;
    this.x = Math.min(Math.max(this.x, half), 1 - half); this.y = Math.min(Math.max(this.y, half), 1 - half);
    const percent = this.area.parentElement.querySelector(".percent");
    if (percent) percent.textContent = Math.round(100 * this.scale * this.z * devicePixelRatio) + " %";
    for (const canvas of this.canvases) canvas.style.cursor = this.pans() ? this.z > 1 ? "grab" : "zoom-in" : "crosshair";
    if (!this.due) { this.due = true; requestAnimationFrame(() => { this.due = false; if (this.size) for (const canvas of this.canvases) this.draw(canvas, this.region); }); }
  }
  // where a pointer is: fractions of the image
  at(event, canvas = event.target) {
    const r = canvas.getBoundingClientRect(), [x, y, w, h] = this.region;
    return [x + w * (event.clientX - r.left) / r.width, y + h * (event.clientY - r.top) / r.height];
  }
  // zooms by a factor; the point under the pointer stays where it is
  by(factor, event = null) {
    const on = event && event.target.tagName === "CANVAS" && event.target, before = on && this.at(event, on);
    this.z *= factor; this.z = Math.min(Math.max(1, this.z), this.most);
    if (on) { const now = this.at(event, on); this.x += before[0] - now[0]; this.y += before[1] - now[1]; }
    this.set();
  }
  fit() { this.z = 1; this.set(); }
  move(x, y) { this.x += x / this.z; this.y += y / this.z; this.set(); }
  drag(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before || !this.size) return;
    const gap = () => { const [a, b] = [...this.pointers.values()]; return Math.hypot(a[0] - b[0], a[1] - b[1]) || 1; };
    const was = this.pinching && gap();
    this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
    const r = event.target.getBoundingClientRect(), share = this.pointers.size;
    if (this.pinching || this.pans()) this.move((before[0] - event.clientX) / r.width / share, (before[1] - event.clientY) / r.height / share);
    if (was) this.by(gap() / was, event);
  }
  // handles a key; returns whether it was one of ours
  key(event) {
    const step = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[event.key];
    if (!this.size || event.ctrlKey || event.metaKey || event.altKey) return false;
    if (event.key === "+" || event.key === "=") this.by(1.5); else if (event.key === "-") this.by(1 / 1.5); else if (event.key === "0") this.fit();
    else if (step && this.z > 1 && this.pans()) this.move(...step);
    else return false;
    event.preventDefault();
    return true;
  }
  // the buttons: smaller, the scale in percent, larger, the whole image
  buttons() {
    const make = (text, name, act) => { const b = document.createElement("button"); b.textContent = text; b.setAttribute("aria-label", name); b.title = name; b.onclick = act; return b; };
    const row = document.createElement("span"), percent = document.createElement("span");
    row.className = "zooms"; percent.className = "percent";
    row.append(make("−", "Zoom out (-)", () => this.by(1 / 1.5)), percent, make("+", "Zoom in (+)", () => this.by(1.5)), make("1:1", "One image pixel per pixel of the screen", () => this.by(this.full / this.z)), make("Fit", "Whole image (0)", () => this.fit()));
    return row;
  }
}
