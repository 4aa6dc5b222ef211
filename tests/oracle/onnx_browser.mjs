// The page of docs/browser in a headless Chromium, against `perceiver predict`.
//
// usage: node onnx_browser.mjs MODULES MODEL CHECKPOINT PROGRAM IMAGE...
//
// MODULES is a node_modules folder with onnxruntime-web and playwright-core; MODEL was exported of CHECKPOINT with
// --with-preprocessing and --softmax. CHROMIUM names the browser, /usr/bin/chromium if it is not set.
import { execFileSync } from "node:child_process";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { basename, dirname, extname, join, normalize, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const [modules, model, checkpoint, program, ...images] = process.argv.slice(2);
const { chromium } = createRequire(join(resolve(modules), "none.js"))("playwright-core");
const pageFolder = join(dirname(fileURLToPath(import.meta.url)), "../../docs/browser");

const TOLERANCE = 1e-3;
const SHOWN = 5;
const PATIENCE = { timeout: 120_000 };
const TYPES = {
  ".css": "text/css",
  ".html": "text/html",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".wasm": "application/wasm",
};
const QUIET = [
  "--no-sandbox",
  "--disable-gpu",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

// A plain file server: the page, the modules and the model.
function fileOf(path) {
  if (path === "/model.onnx") return model;
  const inModules = "/node_modules/";
  if (path.startsWith(inModules)) return join(modules, path.slice(inModules.length));
  return join(pageFolder, path === "/" ? "index.html" : path);
}

const server = createServer(async (request, response) => {
  const { pathname } = new URL(request.url, "http://localhost");
  const file = fileOf(normalize(decodeURIComponent(pathname)));
  try {
    const content = await readFile(file);
    const type = TYPES[extname(file)] ?? "application/octet-stream";
    response.writeHead(200, { "content-type": type }).end(content);
  } catch {
    response.writeHead(404).end();
  }
});

// Drops a file on the page, as a user does.
async function drop(page, image) {
  const content = (await readFile(image)).toString("base64");
  const transfer = await page.evaluateHandle(
    ([content, name]) => {
      const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
      const transfer = new DataTransfer();
      transfer.items.add(new File([bytes], name));
      return transfer;
    },
    [content, basename(image)],
  );
  await page.dispatchEvent("#drop", "drop", { dataTransfer: transfer });
}

// Returns the rows of the page after an image: class, probability, and length of the bar.
async function classified(page, image) {
  const name = basename(image);
  const isDone = (name) => document.getElementById("status").textContent.startsWith(name);
  await page.waitForFunction(isDone, name, PATIENCE);
  return page.$$eval("#bars tbody tr", (rows) =>
    rows.map((row) => ({
      class: row.cells[0].textContent,
      probability: Number(row.dataset.probability),
      bar: parseFloat(row.querySelector(".bar").style.width) / 100,
    })),
  );
}

// Compares by class, since close probabilities may be in another order: one class may be another.
function compare(image, shown, expected) {
  const probabilities = new Map(expected.map((entry) => [entry.class, entry.probability]));
  const known = shown.filter((row) => probabilities.has(row.class));
  const differences = known.map((row) => Math.abs(row.probability - probabilities.get(row.class)));
  const most = Math.max(...differences);
  const isClose =
    shown.length === Math.min(SHOWN, expected.length) &&
    known.length >= shown.length - 1 &&
    most <= TOLERANCE &&
    shown.every((row) => Math.abs(row.bar - row.probability) < 1e-4);
  const first = `${shown[0]?.class} ${shown[0]?.probability.toFixed(4)}`;
  const verdict = isClose ? "" : `, expected at most ${TOLERANCE}`;
  console.log(`${basename(image)}: ${first}, differences up to ${most.toExponential(1)}${verdict}`);
  return isClose;
}

await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: QUIET,
});
let failed = false;
try {
  const page = await browser.newPage();
  page.on("pageerror", (error) => {
    failed = true;
    console.log(`page error: ${error}`);
  });
  page.on("console", (message) => message.type() === "error" && console.log(message.text()));
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
  const isLoaded = () => !document.getElementById("status").textContent.startsWith("Loading");
  await page.waitForFunction(isLoaded, null, PATIENCE);
  console.log(await page.textContent("#status"));

  const flags = ["--checkpoint", checkpoint, "--format", "json", "--top-k", String(SHOWN)];
  const lines = execFileSync(program, ["predict", "--quiet", ...flags, ...images], { encoding: "utf8" });
  const predictions = lines.trim().split("\n").map((line) => JSON.parse(line).classes);
  for (const [number, image] of images.entries()) {
    if (number % 2) {
      await page.setInputFiles("#file", image);
    } else {
      await drop(page, image);
    }
    const shown = await classified(page, image);
    if (!compare(image, shown, predictions[number])) failed = true;
  }
} finally {
  await browser.close();
  server.close();
}
process.exit(failed ? 1 : 0);
