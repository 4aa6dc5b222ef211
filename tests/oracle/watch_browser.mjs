// A training watched in a headless Chromium: epochs appear without a reload.
//
// usage: node watch_browser.mjs MODULES PROGRAM RUN OUTPUT
//
// MODULES is a node_modules folder with playwright-core. PROGRAM trains the quickstart in RUN, a new directory, and
// `PROGRAM watch` serves its page, which is closed after three more epochs; the watcher is then ended, and the training
// interrupted. OUTPUT gets screenshots. Fails on a reload, a console message, a request to elsewhere, and when the
// controls do not stay as they are set. CHROMIUM names the browser, /usr/bin/chromium if it is not set.
import { spawn } from "node:child_process";
import { existsSync, mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";

const [modules, program, run, output] = process.argv.slice(2);
const { chromium } = createRequire(join(resolve(modules), "none.js"))("playwright-core");
mkdirSync(output, { recursive: true });
const QUIET = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const PATIENCE = { timeout: 0 };
const findings = [];

const training = spawn(program, ["train", "--preset", "quickstart", "--output", run], { stdio: "ignore" });
const ended = new Promise((done) => training.on("exit", done));
while (!existsSync(join(run, "config.json"))) await new Promise((done) => setTimeout(done, 100));
const watcher = spawn(program, ["watch", run, "--port", "0"], { stdio: ["ignore", "pipe", "inherit"] });
const [address] = await new Promise((done) => createInterface(watcher.stdout).once("line", (line) => done([line])));
console.log(`watching ${address}`);

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: QUIET });
const page = await (await browser.newContext({ viewport: { width: 1280, height: 900 } })).newPage();
let loads = 0;
page.on("load", () => { loads += 1; });
page.on("console", (message) => findings.push(`console: ${message.text()}`));
page.on("pageerror", (error) => findings.push(`error: ${error}`));
page.on("request", (request) => { if (!request.url().startsWith(address) && !request.url().startsWith("data:")) findings.push(`request: ${request.url()}`); });
await page.goto(address);

const epochs = () => page.evaluate(() => Number([...document.querySelectorAll("dt")].find((term) => term.textContent === "Epochs").nextSibling.textContent));
const after = (count) => page.waitForFunction((count) => Number([...document.querySelectorAll("dt")].find((term) => term.textContent === "Epochs").nextSibling.textContent) >= count, count, PATIENCE);
await after((await epochs()) + 1);
const first = await epochs();
await page.check("input[name=log]");
await page.fill("input[name=weight]", "0.5");
await page.focus("input[name=log]");
await page.click("summary:has-text('The recipe')");
await page.evaluate(() => { window.isTheSame = true; });
for (let more = 1; more <= 3; more++) {
  await after(first + more);
  const state = await page.evaluate(() => ({
    position: document.querySelector("#live .position").textContent,
    measurements: [...document.querySelectorAll("#live .now div")].map((part) => part.textContent).join("; "),
    points: JSON.parse(document.querySelector(".chart script").textContent).curves.map((curve) => curve.points.length),
    isTheSame: window.isTheSame === true,
    isSet: document.querySelector("input[name=log]").checked && document.querySelector("input[name=weight]").value === "0.5",
    isOpen: [...document.querySelectorAll("details[open] > summary")].some((summary) => summary.textContent === "The recipe"),
    drawn: document.querySelectorAll(".chart .line.faint").length,
  }));
  console.log(`epoch ${first + more}:`, JSON.stringify(state));
  if (!state.isTheSame || !state.isSet || !state.isOpen || state.drawn === 0) findings.push(`after epoch ${first + more}: ${JSON.stringify(state)}`);
  await page.screenshot({ path: join(output, `watched-${more}.png`), fullPage: more === 3 });
}
if (loads !== 1) findings.push(`${loads} loads`);
watcher.kill("SIGTERM");
await page.waitForFunction(() => document.querySelector(".connection").textContent.includes("ended"), null, PATIENCE);
await browser.close();
const isRunning = training.exitCode === null;
if (!isRunning) findings.push("the training has ended with its watcher");
training.kill("SIGINT");
console.log(`the training was interrupted and ended with code ${await ended}`);
for (const finding of findings) console.log(finding);
console.log(`${first} to ${first + 3} epochs, ${loads} load, ${findings.length} findings`);
process.exit(findings.length > 0 ? 1 : 0);
