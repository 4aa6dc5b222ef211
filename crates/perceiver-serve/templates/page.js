"use strict";
const at = (id) => document.getElementById(id);
const show = (element, is) => { element.hidden = !is; };
let token = "";
let model = null;
let maps = [];
let current = 0; // the number of the last image; answers for earlier ones are dropped
let address = null;
let stream = null;

const headers = (more) => (token ? { ...more, Authorization: `Bearer ${token}` } : more);

// Returns the JSON of an answer, or throws what to tell the user.
async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: headers((options && options.headers) || {}) });
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  if (response.ok) return response.json();
  const { error } = await response.json().catch(() => ({ error: { message: `status ${response.status}`, next: "" } }));
  if (response.status === 401) {
    show(at("unlock"), true);
    at("token").focus();
    throw new Error(token ? "The server has another token." : "Enter the token of this server first.");
  }
  throw new Error(`${error.message}. ${error.next ? `Next: ${error.next}.` : ""}`);
}

function fail(error) {
  at("error").textContent = error.message;
  show(at("error"), true);
  at("status").textContent = "";
}

const grouped = (number) => number.toLocaleString("en-US");
const unit = (number) => {
  const [size, name] = [[1e12, " T"], [1e9, " G"], [1e6, " M"], [1e3, " k"]].find(([size]) => number >= size) || [1, ""];
  return `${(number / size).toPrecision(3)}${name}`;
};
const percent = (share, digits) => `${(100 * share).toFixed(digits)}%`;

function describe() {
  document.title = `${model.name}, ${model.kind}`;
  at("kind").textContent = `${model.kind}, image classification`;
  at("name").textContent = model.name;
  const facts = [
    ["Classes", grouped(model.classes.length)],
    ["Input", `${model.image_size} x ${model.image_size} pixels`],
    ["Parameters", grouped(model.parameters)],
    ["Multiply-adds per image", unit(model.multiply_adds)],
    ["Trained on", model.training.dataset || (model.training.images ? "images of its author" : "unknown")],
  ];
  if (model.training.images) facts.push(["Training images", grouped(model.training.images)]);
  if (model.results) {
    const { accuracy, accuracy_interval_95: [low, high], images } = model.results;
    facts.push(["Test accuracy", `${percent(accuracy, 1)} (95% interval ${(100 * low).toFixed(1)} to ${(100 * high).toFixed(1)})`]);
    facts.push(["Test images", grouped(images)]);
  }
  if (model.test_time_flip) facts.push(["Test-time flip", "averaged over the mirror image"]);
  at("facts").replaceChildren(...facts.map(([name, value]) => {
    const [item, term, text] = ["div", "dt", "dd"].map((tag) => document.createElement(tag));
    term.textContent = name;
    text.textContent = value;
    item.append(term, text);
    return item;
  }));
}

async function start() {
  try {
    model = await ask("model");
    show(at("unlock"), false);
    show(at("error"), false);
    at("status").textContent = "No image yet.";
    describe();
  } catch (error) {
    fail(error);
  }
}

function bars(classes) {
  at("bars").replaceChildren(...classes.map((found) => {
    const [item, row, name, share, track, bar] = ["li", "div", "span", "span", "div", "div"].map((tag) => document.createElement(tag));
    row.className = "row spread";
    name.className = "class";
    share.className = "percent";
    track.className = "track";
    bar.className = "bar";
    name.textContent = found.class;
    share.textContent = percent(found.probability, 2);
    share.dataset.probability = found.probability;
    row.append(name, share);
    track.append(bar);
    item.append(row, track);
    bar.style.width = percent(found.probability, 2);
    return item;
  }));
}

// Shows the map of the slider's cross-attention; 0 is the image alone.
function look() {
  const number = Number(at("iteration").value);
  const map = maps[number - 1];
  show(at("overlay"), Boolean(map));
  if (map) at("overlay").src = map.overlay;
  const which = map ? `cross-attention ${number} of ${maps.length}` : "image only";
  at("which").textContent = which;
  at("iteration").setAttribute("aria-valuetext", which);
}

// Shows an image, or the invitation to choose one.
function stage(has) {
  show(at("empty"), !has);
  show(at("frame"), has);
  at("stage").classList.toggle("waiting", !has);
}

function clear() {
  if (address) URL.revokeObjectURL(address);
  address = null;
  stage(false);
}

function attention(found) {
  maps = found ? found.maps : [];
  // Browsers do not show all formats that the server reads.
  if (found && at("frame").hidden && found.image) {
    at("frame").className = "frame stretch";
    at("picture").style.transform = "";
    at("picture").src = found.image;
    stage(true);
  }
  show(at("look"), maps.length > 0);
  at("iteration").max = maps.length;
  at("iteration").value = Math.min(1, maps.length);
  look();
}

function picture(blob) {
  if (address) URL.revokeObjectURL(address);
  address = URL.createObjectURL(blob);
  const { kind, share } = model ? model.fit : { kind: "stretch", share: 1 };
  at("frame").className = `frame ${kind}`;
  at("picture").src = address;
  at("picture").alt = blob.name ? `The image ${blob.name}` : "The image";
  at("picture").style.transform = share < 1 ? `scale(${1 / share})` : "";
  stage(true);
}

async function predict(blob) {
  const number = ++current;
  closeCamera();
  if (!model) await start();
  if (!model) return;
  show(at("error"), false);
  attention(null);
  bars([]);
  if (blob.size > model.limits.max_body) {
    clear();
    fail(new Error(`The image has ${unit(blob.size)}B, the server takes up to ${unit(model.limits.max_body)}B. Choose a smaller one.`));
    return;
  }
  picture(blob);
  at("status").textContent = "Classifying ...";
  const body = () => ({ method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: blob });
  try {
    const began = performance.now();
    const answer = await ask("predict", body());
    if (number !== current) return;
    const [found] = answer.predictions;
    bars(found.classes);
    const ms = Math.round(performance.now() - began);
    at("status").textContent = `${blob.name || "The image"}, ${found.width} x ${found.height} pixels, in ${ms} ms`;
  } catch (error) {
    if (number === current) {
      clear();
      fail(error);
    }
    return;
  }
  try {
    const answer = await ask("predict?attention=true", body());
    if (number === current) attention(answer.predictions[0].attention);
  } catch {
    // Some models have no attention over a grid; the prediction stands without.
  }
}

function closeCamera() {
  if (stream) for (const track of stream.getTracks()) track.stop();
  stream = null;
  for (const [id, is] of [["video", false], ["shoot", false], ["cancel", false], ["choose", true]]) show(at(id), is);
  show(at("camera"), Boolean(navigator.mediaDevices));
  stage(Boolean(address));
}

async function openCamera() {
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    fail(new Error(`The camera cannot be used: ${error.message}`));
    return;
  }
  const video = at("video");
  video.srcObject = stream;
  await video.play();
  for (const id of ["frame", "empty", "choose", "camera"]) show(at(id), false);
  for (const id of ["video", "shoot", "cancel"]) show(at(id), true);
  at("shoot").focus();
}

function shoot() {
  const video = at("video");
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => blob && predict(blob), "image/jpeg", 0.95);
}

const imageOf = (items) => [...(items || [])].find((file) => file.type.startsWith("image/")) || (items && items[0]);

at("choose").addEventListener("click", () => at("file").click());
at("stage").addEventListener("click", () => { if (at("stage").classList.contains("waiting") && !stream) at("file").click(); });
at("file").addEventListener("change", (event) => {
  if (event.target.files[0]) predict(event.target.files[0]);
  event.target.value = "";
});
at("camera").addEventListener("click", openCamera);
at("shoot").addEventListener("click", shoot);
at("cancel").addEventListener("click", closeCamera);
at("iteration").addEventListener("input", look);
at("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  token = at("token").value;
  start();
});
window.addEventListener("paste", (event) => {
  const image = imageOf(event.clipboardData && event.clipboardData.files);
  if (image) predict(image);
});
let depth = 0; // dragenter and dragleave of nested elements
const over = (is) => { depth = Math.max(0, depth + is); show(at("drop"), depth > 0); };
window.addEventListener("dragenter", (event) => { event.preventDefault(); over(1); });
window.addEventListener("dragleave", () => over(-1));
window.addEventListener("dragover", (event) => event.preventDefault());
window.addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  show(at("drop"), false);
  const image = imageOf(event.dataTransfer && event.dataTransfer.files);
  if (image) predict(image);
});
at("picture").addEventListener("error", () => stage(false));
closeCamera();
start();
