// Classifies images with model.onnx, which `perceiver export --with-preprocessing --softmax` wrote.
import { metadata } from "./onnx_metadata.js";

const SHOWN = 5;
const byId = (id) => document.getElementById(id);

// Beside the script; one thread, since more need headers that a plain file server does not send.
ort.env.wasm.wasmPaths = new URL("node_modules/onnxruntime-web/dist/", document.baseURI).href;
ort.env.wasm.numThreads = 1;

function say(text) {
  byId("status").textContent = text;
}

async function load() {
  const response = await fetch("model.onnx");
  if (!response.ok) {
    throw new Error(`model.onnx: expected the file beside index.html, found ${response.status}`);
  }
  const bytes = new Uint8Array(await response.arrayBuffer());
  const classes = JSON.parse(metadata(bytes).classes);
  const session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  if (session.inputNames[0] !== "images" || session.outputNames[0] !== "probabilities") {
    throw new Error("model.onnx: expected an export with --with-preprocessing and --softmax");
  }
  return { session, classes };
}

// Decodes an image and draws it, over white as the program does; returns its bytes [height, width, 3].
async function pixels(file) {
  const image = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const canvas = byId("image");
  [canvas.width, canvas.height, canvas.hidden] = [image.width, image.height, false];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, image.width, image.height);
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, image.width, image.height);
  const bytes = new Uint8Array(3 * image.width * image.height);
  for (let from = 0, to = 0; from < data.length; from += 4) {
    bytes[to++] = data[from];
    bytes[to++] = data[from + 1];
    bytes[to++] = data[from + 2];
  }
  return new ort.Tensor("uint8", bytes, [1, image.height, image.width, 3]);
}

function show(classes, probabilities) {
  const order = Array.from(probabilities.keys()).sort((a, b) => probabilities[b] - probabilities[a]);
  const rows = order.slice(0, SHOWN).map((index) => {
    const row = document.createElement("tr");
    const [name, cell, bar, share] = ["th", "td", "div", "td"].map((tag) => document.createElement(tag));
    name.scope = "row";
    name.textContent = classes[index];
    bar.className = "bar";
    bar.style.width = `${100 * probabilities[index]}%`;
    share.className = "share";
    share.textContent = `${(100 * probabilities[index]).toFixed(1)}%`;
    row.dataset.probability = probabilities[index];
    cell.append(bar);
    row.append(name, cell, share);
    return row;
  });
  byId("bars").tBodies[0].replaceChildren(...rows);
  byId("bars").hidden = false;
}

async function classify(model, file) {
  say(`Classifying ${file.name}`);
  byId("bars").hidden = true;
  try {
    const { probabilities } = await model.session.run({ images: await pixels(file) });
    show(model.classes, probabilities.data);
    say(file.name);
  } catch (error) {
    say(`${file.name}: ${error.message}`);
  }
}

try {
  const model = await load();
  const [drop, input] = [byId("drop"), byId("file")];
  input.disabled = false;
  say(`Ready: ${model.classes.length} classes`);
  input.addEventListener("change", () => input.files.length && classify(model, input.files[0]));
  // Everywhere on the page, or the browser would open an image that misses the box.
  addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  addEventListener("dragleave", () => drop.classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const file = event.dataTransfer.files[0];
    if (file) classify(model, file);
  });
} catch (error) {
  say(error.message);
}
