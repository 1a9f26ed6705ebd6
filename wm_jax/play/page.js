"use strict";
// The page: one dream that C or the visitor drives, V's eye, M's futures, and the same C in a cold and a warm dream.
(() => {
  const find = (id) => document.getElementById(id);
  const data = JSON.parse(find("data").textContent), about = data.about;
  const decoded = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const dreams = Engine.load(data.program, decoded(find("numbers").textContent).buffer);
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const SIZE = 64, KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down" };
  const HISTORY = 200, DRAWS = 10, AHEAD = [1, 4, 7, 10], FUTURES = 4, COLD = 0.1, FILM = 512;

  // ---- pictures
  // `picture`: float [64 · 64 · 3] in [0, 1].
  function paint(canvas, picture) {
    const context = canvas.getContext("2d"), image = context.createImageData(SIZE, SIZE);
    for (let i = 0, at = 0; i < SIZE * SIZE; i++, at += 3) {
      for (let c = 0; c < 3; c++) image.data[4 * i + c] = Math.round(picture[at + c] * 255);
      image.data[4 * i + 3] = 255;
    }
    context.putImageData(image, 0, 0);
  }

  function element(tag, settings = {}, ...children) {
    const made = Object.assign(document.createElement(tag), settings);
    made.append(...children);
    return made;
  }

  const canvas = (label) => {
    const made = element("canvas", { width: SIZE, height: SIZE });
    if (label) { made.setAttribute("role", "img"); made.setAttribute("aria-label", label); }
    return made;
  };

  const fromBytes = (pixels) => Float32Array.from(pixels, (value) => value / 255);
  const anyOf = (count) => Math.floor(Math.random() * count);
  const two = (number) => (Number.isFinite(number) ? number.toFixed(2) : "–");

  // ---- one dream
  class Dream {
    constructor(seed) { this.key = new Uint32Array([0, seed]); }

    begin(start) {
      this.state = about.starts[start].map((leaf) => Float32Array.from(leaf));
      this.carry = about.carry.map((leaf) => Float32Array.from(leaf));
      Object.assign(this, { earned: 0, steps: 0, over: "", entropy: NaN, ending: NaN });
    }

    // One step: C acts unless an action is given.
    step(temperature, action) {
      const [key, acting, ...noise] = dreams.draw(this.key);
      const [chosen, ...carry] = dreams.act(...this.state, ...this.carry, acting);
      const found = dreams.step(...this.state, action ?? chosen, ...noise, [temperature]);
      const leaves = this.state.length;
      const [[reward], [terminated], [truncated], [ending], [entropy] = [NaN]] = found.slice(leaves);
      this.key = key; this.carry = carry; this.state = found.slice(0, leaves);
      this.earned += reward; this.steps += 1; this.ending = ending; this.entropy = entropy;
      this.over = terminated ? "the dream ended" : truncated ? "the time limit was reached" : "";
    }

    get frame() { return dreams.frame(...this.state)[0]; }

    copy(seed) {
      const other = new Dream(seed);
      other.begin(0);
      return Object.assign(other, { state: this.state, carry: this.carry });
    }
  }

  // ---- driving
  const dream = new Dream(anyOf(2 ** 32)), held = new Set(), history = [];
  // What is recorded: enlarged, so that players need not.
  const film = element("canvas", { width: FILM, height: FILM });
  let start = 0, playing = false, recorder = null;

  // What the held keys drive: the dream, or the actual environment of a served page.
  const wheel = () => document.querySelector("input[name=wheel]:checked")?.value ?? "dream";

  // The action of the held keys; null while C drives there.
  function taken(place) {
    if (!held.size || wheel() !== place) return null;
    const rest = about.controls.rest;
    return Float32Array.from(rest, (number, i) => {
      const moved = [...held].reduce((sum, key) => sum + about.controls[key][i] - number, number);
      return Math.max(-1, Math.min(1, moved));
    });
  }

  function show() {
    paint(find("dream"), dream.frame);
    if (recorder) {
      const context = film.getContext("2d");
      context.imageSmoothingEnabled = false;
      context.drawImage(find("dream"), 0, 0, FILM, FILM);
    }
    const yours = taken("dream") !== null;
    find("who").textContent = yours ? "you drive" : "C drives";
    find("who").classList.toggle("taken", yours);
    find("earned").textContent = dream.earned.toFixed(1);
    find("steps").textContent = String(dream.steps);
    find("end").textContent = dream.over || "not yet";
    chart();
  }

  function begin(chosen) {
    start = chosen;
    dream.begin(start);
    history.length = 0;
    [...find("starts").children].forEach((button, i) => button.setAttribute("aria-pressed", String(i === start)));
    show();
  }

  function advance() {
    if (dream.over) { play(false); return; }
    dream.step(Number(find("temperature").value), taken("dream"));
    history.push([dream.entropy, dream.ending]);
    if (history.length > HISTORY) history.shift();
    show();
    if (dream.over) {
      play(false);
      find("status").textContent = `${dream.over} after ${dream.steps} steps, score ${dream.earned.toFixed(1)}`;
    }
  }

  // Calls `step` as often as the task's own time asks for, as far as the machine keeps up; returns what stops it.
  function ticking(step, told = () => {}) {
    let due = performance.now(), counted = 0, since = due, running = true;
    const tick = (now) => {
      if (!running) return;
      if (now >= due) {
        step();
        counted += 1;
        due = Math.max(due + 1000 / about.frames_per_second, now - 100);
      }
      if (now - since > 1000) { told((1000 * counted) / (now - since)); counted = 0; since = now; }
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
    return () => { running = false; };
  }

  let stop = null;
  function play(on) {
    if (on === playing) return;
    if (on && dream.over) begin(start);
    playing = on;
    find("play").textContent = on ? "Pause" : "Play";
    if (on) stop = ticking(advance, (rate) => { find("rate").textContent = rate.toFixed(0); });
    else stop();
  }

  function hold(key, down) {
    if (!(key in about.controls)) return;
    if (down) held.add(key); else held.delete(key);
    if (!playing) show();
  }

  addEventListener("keydown", (event) => {
    const key = KEYS[event.key];
    // Sliders and choices have arrow keys of their own, and browsers with Alt.
    if (!key || !(key in about.controls) || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.target.matches("input, select, textarea")) return;
    event.preventDefault();
    hold(key, true);
  });
  addEventListener("keyup", (event) => { if (KEYS[event.key]) hold(KEYS[event.key], false); });
  addEventListener("blur", () => { held.clear(); if (!playing) show(); });

  // Buttons that drive while they are held; who uses those of a place drives there.
  function pad(target, place) {
    for (const key of ["up", "left", "down", "right"].filter((each) => each in about.controls)) {
      const button = element("button", { type: "button", textContent: { up: "↑", left: "←", down: "↓", right: "→" }[key] });
      const press = () => {
        const choice = document.querySelector(`input[name=wheel][value=${place}]`);
        if (choice) choice.checked = true;
        hold(key, true);
      };
      button.dataset.key = key;
      button.setAttribute("aria-label", `hold to drive ${key}`);
      button.addEventListener("pointerdown", (event) => { button.setPointerCapture(event.pointerId); press(); });
      for (const end of ["pointerup", "pointercancel", "lostpointercapture", "blur"]) button.addEventListener(end, () => hold(key, false));
      button.addEventListener("keydown", (event) => { if (event.key === " " || event.key === "Enter") press(); });
      button.addEventListener("keyup", (event) => { if (event.key === " " || event.key === "Enter") hold(key, false); });
      target.append(button);
    }
  }
  pad(find("pad"), "dream");

  find("play").addEventListener("click", () => play(!playing));
  find("single").addEventListener("click", () => { play(false); advance(); });
  find("restart").addEventListener("click", () => begin(start));
  find("temperature").value = about.temperature;
  const told = () => { find("temperature-value").textContent = Number(find("temperature").value).toFixed(2); };
  find("temperature").addEventListener("input", told);
  told();
  find("range-hint").textContent = `C was trained at ${about.temperature}.`;

  about.starts.forEach((_, i) => {
    const small = canvas("");
    const button = element("button", { type: "button" }, small);
    button.setAttribute("aria-label", `start frame ${i + 1}`);
    button.addEventListener("click", () => begin(i));
    find("starts").append(button);
    const shown = new Dream(0);
    shown.begin(i);
    paint(small, shown.frame);
  });

  // ---- recording
  function record() {
    if (recorder) { recorder.stop(); return; }
    const chunks = [], stream = film.captureStream(about.frames_per_second);
    recorder = new MediaRecorder(stream, { mimeType: "video/webm" });
    recorder.addEventListener("dataavailable", (event) => chunks.push(event.data));
    recorder.addEventListener("stop", () => {
      const address = URL.createObjectURL(new Blob(chunks, { type: "video/webm" }));
      element("a", { href: address, download: `${about.task}-dream.webm` }).click();
      setTimeout(() => URL.revokeObjectURL(address), 10000);
      recorder = null;
      find("record").textContent = "Record WebM";
    });
    recorder.start();
    find("record").textContent = "Stop and save";
    show();
    play(true);
  }
  if (window.MediaRecorder && MediaRecorder.isTypeSupported("video/webm")) find("record").addEventListener("click", record);
  else Object.assign(find("record"), { disabled: true, title: "this browser cannot record WebM" });

  // ---- what M expects
  // The means of the last draws, one after each step: each draw's −log p has the entropy as its mean.
  const smoothed = (values) => values.map((_, i) => {
    const last = values.slice(Math.max(0, i + 1 - DRAWS), i + 1);
    return last.reduce((sum, value) => sum + value, 0) / last.length;
  });

  function chart() {
    const target = find("chart"), context = target.getContext("2d"), style = getComputedStyle(document.documentElement);
    context.clearRect(0, 0, target.width, target.height);
    const entropies = smoothed(history.map(([entropy]) => entropy)), known = entropies.filter(Number.isFinite);
    const low = Math.min(...known), high = Math.max(...known);
    const line = (values, from, to, colour) => {
      context.strokeStyle = style.getPropertyValue(colour);
      context.lineWidth = 2;
      context.beginPath();
      values.forEach((value, i) => {
        const y = target.height - 4 - ((value - from) / (to - from || 1)) * (target.height - 8);
        if (Number.isFinite(y)) context.lineTo((i / HISTORY) * target.width, y);
      });
      context.stroke();
    };
    line(entropies, low, high, "--entropy");
    line(history.map(([, ending]) => ending), 0, 1, "--ending");
    find("entropy-low").textContent = two(low);
    find("entropy-high").textContent = two(high);
    find("entropy-now").textContent = two(entropies.at(-1));
    find("ending-now").textContent = two(dream.ending);
  }

  const futures = Array.from({ length: FUTURES }, (_, i) => {
    const pictures = AHEAD.map((steps) => canvas(`future ${i + 1}, ${steps} steps on`)), caption = element("figcaption");
    find("futures").append(element("figure", {}, element("div", { className: "future" }, ...pictures), caption));
    return { pictures, caption };
  });
  function foresee() {
    for (const { pictures, caption } of futures) {
      const one = dream.copy(anyOf(2 ** 32));
      AHEAD.forEach((steps, i) => {
        while (one.steps < steps && !one.over) one.step(Number(find("temperature").value));
        paint(pictures[i], one.frame);
      });
      caption.textContent = one.over ? `${one.over} after ${one.steps} steps` : `${AHEAD.join(", ")} steps on`;
    }
  }
  find("foresee").addEventListener("click", foresee);

  // ---- cheating
  const pair = [COLD, about.temperature].map((temperature, i) => {
    const picture = canvas(`the dream at temperature ${temperature}`), caption = element("figcaption");
    find("pair").append(element("figure", {}, picture, caption));
    return { dream: new Dream(i + 1), picture, caption, temperature };
  });
  function showPair() {
    for (const { dream: one, picture, caption, temperature } of pair) {
      paint(picture, one.frame);
      caption.textContent = `τ ${temperature}: score ${one.earned.toFixed(1)} in ${one.steps} steps${one.over ? `; ${one.over}` : ""}`;
    }
  }
  function restartPair() {
    pair.forEach((one) => one.dream.begin(start));
    showPair();
  }
  let stopPair = null;
  function playPair(on) {
    if (on && pair.every((one) => one.dream.over)) restartPair();
    if (stopPair) { stopPair(); stopPair = null; }
    if (on)
      stopPair = ticking(() => {
        for (const one of pair) if (!one.dream.over) one.dream.step(one.temperature);
        showPair();
        if (pair.every((one) => one.dream.over)) playPair(false);
      });
    find("compare").textContent = on ? "Pause both" : "Play both";
  }
  find("compare").addEventListener("click", () => playPair(!stopPair));
  find("compare-restart").addEventListener("click", restartPair);

  // ---- the actual environment, which a server has
  function connect() {
    // A connection takes a place at the server: it is there from the first press on, and made again where it was closed.
    let socket = null, waiting = false, over = true, halt = null;
    const ask = (message) => { waiting = true; socket.send(JSON.stringify(message)); };
    const pixels = (text) => fromBytes(decoded(text));
    const tell = (text) => { find("actual-told").textContent = find("actual-status").textContent = text; };
    const begin = () => {
      if (waiting) return;
      if (!socket) { open(); return; }
      ask({ begin: anyOf(2 ** 31) });
    };
    const playing = (on) => {
      if (halt) { halt(); halt = null; }
      if (on && over) begin();
      if (on) halt = ticking(() => {
        const action = taken("actual");
        if (!waiting && !over) ask({ step: action && [...action] });
      });
      find("actual-play").textContent = on ? "Pause" : "Play";
    };
    const hear = (event) => {
      const moment = JSON.parse(event.data);
      waiting = false;
      if (!moment.frame) { tell(moment.wait ?? moment.error); return; }
      paint(find("actual-frame"), pixels(moment.frame));
      paint(find("actual-seen"), pixels(moment.seen));
      over = moment.over !== "";
      const driver = taken("actual") ? "you drive" : "C drives";
      const score = `score ${moment.earned.toFixed(1)} in ${moment.steps} steps`;
      if (over) { tell(`${moment.over}: ${score}`); playing(false); } else find("actual-told").textContent = `${driver}: ${score}`;
    };
    function open() {
      tell("starting the game…");
      waiting = true;
      socket = new WebSocket(`ws://${location.host}/actual`);
      socket.addEventListener("open", () => { waiting = false; begin(); });
      socket.addEventListener("message", hear);
      socket.addEventListener("close", () => {
        tell(`${find("actual-told").textContent} (the connection is closed; press Play for another episode)`);
        socket = null;
        waiting = false;
        over = true;
        playing(false);
      });
    }
    pad(find("actual-pad"), "actual");
    find("actual-play").addEventListener("click", () => playing(!halt));
    find("actual-restart").addEventListener("click", begin);
  }
  if (about.served) connect();

  // ---- V
  if (dreams.see) {
    find("latent-size").textContent = String(about.latents.size);
    let z = null, looked = null;
    const sliders = about.latents.telling.map(({ dimension, mean, sd }) => {
      const slider = element("input", { type: "range", min: mean - 3 * sd, max: mean + 3 * sd, step: sd / 20, id: `z${dimension}` });
      const value = element("output", { htmlFor: slider.id });
      find("latents").append(element("div", {}, element("label", { htmlFor: slider.id, textContent: `z ${dimension}` }), value, slider));
      const tell = () => { value.textContent = two(z[dimension]); slider.setAttribute("aria-valuetext", two(z[dimension])); };
      slider.addEventListener("input", () => { z[dimension] = Number(slider.value); tell(); redraw(); });
      return { slider, dimension, mean, sd, tell };
    });
    const redraw = () => paint(find("seen"), dreams.imagined(z)[0]);
    const shown = (latents) => {
      z = Float32Array.from(latents);
      sliders.forEach(({ slider, dimension, tell }) => { slider.value = z[dimension]; tell(); });
      redraw();
    };
    // `pixels`: Uint8 [64 · 64 · 3].
    const look = (pixels) => {
      paint(find("original"), fromBytes(pixels));
      looked = dreams.see(pixels)[0];
      shown(looked);
    };
    const pixelsOf = (image) => {
      const context = element("canvas", { width: SIZE, height: SIZE }).getContext("2d");
      const side = Math.min(image.width, image.height);
      context.drawImage(image, (image.width - side) / 2, (image.height - side) / 2, side, side, 0, 0, SIZE, SIZE);
      return context.getImageData(0, 0, SIZE, SIZE).data.filter((_, i) => i % 4 !== 3);
    };
    const open = async (file) => {
      try {
        look(pixelsOf(await createImageBitmap(file)));
        find("problem").hidden = true;
      } catch {
        find("problem").textContent = `${file.name} is no picture that this browser can read.`;
        find("problem").hidden = false;
      }
    };
    find("picture").addEventListener("change", (event) => { if (event.target.files.length) open(event.target.files[0]); });
    const section = find("see");
    // A picture that is dropped elsewhere on the page would take its place.
    addEventListener("dragover", (event) => { event.preventDefault(); section.classList.add("over"); });
    addEventListener("dragleave", () => section.classList.remove("over"));
    addEventListener("drop", (event) => {
      event.preventDefault();
      section.classList.remove("over");
      if (event.dataTransfer.files.length) open(event.dataTransfer.files[0]);
    });
    find("randomise").addEventListener("click", () => {
      const random = Float32Array.from(z);
      for (const { dimension, mean, sd } of sliders) random[dimension] = mean + sd * (Math.random() + Math.random() + Math.random() - 1.5) * 2;
      shown(random);
    });
    find("reset").addEventListener("click", () => shown(looked));
    about.samples.forEach((sample, i) => {
      const pixels = decoded(sample), small = canvas("");
      paint(small, fromBytes(pixels));
      const button = element("button", { type: "button" }, small);
      button.setAttribute("aria-label", `sample picture ${i + 1}`);
      button.addEventListener("click", () => look(pixels));
      find("samples").append(button);
      // Episodes may begin with what is seen at no other time.
      if (i === Math.floor(about.samples.length / 2)) look(pixels);
    });
    if (!about.samples.length) {
      const first = new Dream(0);
      first.begin(0);
      look(Uint8Array.from(first.frame, (value) => Math.round(255 * value)));
    }
  } else find("see").hidden = true;

  // ---- begin
  find("lead").textContent = "A world model dreams here, in this page. C drives; hold the arrow keys, or the arrows below, to drive yourself.";
  find("about").textContent = about.told;
  begin(0);
  restartPair();
  foresee();
  if (!still) play(true);
})();
