// Reports in a headless Chromium: accessibility by axe-core, console, requests, screenshots, print.
//
// usage: node report_pages.mjs MODULES OUTPUT PAGE...
//
// MODULES is a node_modules folder with axe-core and playwright-core; a PAGE is a file or an address of this machine.
// OUTPUT gets screenshots at 1280 and 390 pixels in both themes, one with logarithmic scales, one without JavaScript, and
// the page on paper. Fails on a serious violation, a console message, a request to elsewhere, a page wider than its
// window, and a chart that lacks values on a logarithmic scale. CHROMIUM names the browser, /usr/bin/chromium if it is not set.
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [modules, output, ...pages] = process.argv.slice(2);
const require = createRequire(join(resolve(modules), "none.js"));
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core"), "utf8");
mkdirSync(output, { recursive: true });

const QUIET = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const SERIOUS = ["serious", "critical"];
const findings = [];

// Turns the logarithmic scale on, and returns the charts that lack a value or a readout then.
function incompleteCharts() {
  for (const box of document.querySelectorAll(".controls input[name=log]")) box.click();
  const lacks = ({ chart }) => {
    const values = chart.data.curves.flatMap(({ points }) => points.filter(([x, y]) => x !== null && y !== null && Math.abs(y) <= 1e100)).length;
    const lines = [...chart.svg.querySelectorAll(".line:not(.faint)")];
    const drawn = lines.reduce((sum, line) => sum + line.points.numberOfItems, 0);
    chart.key(new KeyboardEvent("keydown", { key: "ArrowRight" }));
    const isRead = values === 0 || chart.output.textContent !== "";
    chart.hide();
    return drawn !== values || !isRead;
  };
  const charts = [...document.querySelectorAll(".chart")].filter(({ chart }) => chart && chart.options.log);
  return charts.filter(lacks).map((figure) => figure.querySelector("figcaption").textContent.trim());
}

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: QUIET });
for (const page of pages) {
  const address = page.startsWith("http://") ? page : pathToFileURL(resolve(page)).href;
  const name = page.startsWith("http://") ? "live" : `${basename(dirname(resolve(page)))}-${basename(page, ".html")}`;
  const isOurs = (url) => url.startsWith("data:") || url.startsWith(address.startsWith("http:") ? new URL(address).origin : "file:");

  async function open(options, of) {
    const context = await browser.newContext({ bypassCSP: true, ...options });
    const tab = await context.newPage();
    tab.on("console", (message) => findings.push(`${name} ${of}: console: ${message.text()}`));
    tab.on("pageerror", (error) => findings.push(`${name} ${of}: error: ${error}`));
    tab.on("request", (request) => { if (!isOurs(request.url())) findings.push(`${name} ${of}: request: ${request.url()}`); });
    await tab.goto(address, { waitUntil: "load" });
    return tab;
  }

  for (const width of [1280, 390]) {
    for (const colorScheme of ["light", "dark"]) {
      const of = `${width}-${colorScheme}`;
      const tab = await open({ colorScheme, viewport: { width, height: 900 } }, of);
      await tab.screenshot({ path: join(output, `${name}-${of}.png`), fullPage: true });
      const over = await tab.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      if (over > 0) findings.push(`${name} ${of}: ${over} pixels wider than the window`);
      await tab.evaluate(axe);
      const { violations } = await tab.evaluate(() => axe.run());
      for (const { id, impact, help, nodes } of violations) {
        const line = `${name} ${of}: axe ${impact}: ${id}: ${help} (${nodes.length}), as ${nodes[0].html.slice(0, 160)}`;
        if (SERIOUS.includes(impact)) findings.push(line);
        else console.log(line);
      }
      await tab.context().close();
    }
  }
  const scales = await open({ viewport: { width: 1280, height: 900 } }, "logarithmic scale");
  findings.push(...(await scales.evaluate(incompleteCharts)).map((chart) => `${name}: values missing on a logarithmic scale: ${chart}`));
  await scales.screenshot({ path: join(output, `${name}-logarithmic.png`), fullPage: true });
  await scales.context().close();
  const plain = await open({ javaScriptEnabled: false, viewport: { width: 1280, height: 900 } }, "without JavaScript");
  await plain.screenshot({ path: join(output, `${name}-plain.png`), fullPage: true });
  await plain.context().close();
  const paper = await open({ viewport: { width: 1280, height: 900 } }, "on paper");
  await paper.pdf({ path: join(output, `${name}.pdf`), format: "A4" });
  await paper.context().close();
  console.log(`${name}: opened 7 times`);
}
await browser.close();
for (const finding of findings) console.log(finding);
console.log(`${pages.length} pages, ${findings.length} findings`);
process.exit(findings.length > 0 ? 1 : 0);
