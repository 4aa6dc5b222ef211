//! Opens reports in a real browser, if one is installed: no errors, no network requests, no
//! horizontal overflow.

use std::fs;

use perceiver_tests::browser::{Browser, console};
use perceiver_tests::program::Sandbox;

/// Appends a script to the page that operates its charts, tables and controls, and records the
/// overflow, the number of sorted tables, and the texts that it got to see.
fn measured(page: &str) -> String {
    let script = "<script>
        const texts = [];
        const key = (element, name) => element.dispatchEvent(new KeyboardEvent('keydown', {key: name, bubbles: true}));
        const plot = document.querySelector('.plot');
        key(plot, 'ArrowRight');
        texts.push(plot.parentElement.querySelector('output').textContent);
        const form = document.querySelector('form.controls');
        for (const unit of form.elements.unit || []) {
            form.elements.log.checked = true;
            form.elements.weight.value = 0.5;
            unit.checked = true;
            form.dispatchEvent(new Event('input'));
            key(plot, 'ArrowRight');
            texts.push(plot.parentElement.querySelector('output').textContent);
        }
        texts.push(plot.querySelectorAll('polyline').length + ' lines');
        const cell = document.querySelector('.matrix [data-cell], .map .plane');
        if (cell) { key(cell, 'Enter'); texts.push(document.querySelector('dialog').open); document.querySelector('dialog').close(); }
        for (const button of document.querySelectorAll('.sortable thead button')) { button.click(); button.click(); }
        const sorted = document.querySelectorAll('th[aria-sort=\"descending\"]').length;
        const over = document.documentElement.scrollWidth - document.documentElement.clientWidth;
        document.documentElement.dataset.measured = `over ${over} sorted ${sorted}`;
        document.documentElement.dataset.texts = texts.join('; ');
    </script>";
    page.replace("</body>", &format!("{script}</body>"))
}

#[test]
fn page_errors_are_detected() {
    let Some(browser) = Browser::find() else {
        return;
    };
    let page = browser.directory().join("bad.html");
    fs::write(
        &page,
        "<img src=\"http://leak.test/x.png\"><script>nothing()</script>",
    )
    .unwrap();
    let opened = browser.open(&page, 1280);
    assert!(!console(&opened.log).is_empty(), "{}", opened.log);
    assert!(
        opened.asked.iter().any(|line| line.contains("leak.test")),
        "{:?}",
        opened.asked
    );
}

#[test]
fn a_report_opens_without_errors_requests_or_overflow() {
    let Some(browser) = Browser::find() else {
        return;
    };
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"));
    sandbox.succeed("train --preset quickstart --config tiny.toml --epochs 3 --output run");
    sandbox.succeed("train --preset quickstart --config tiny.toml --seed 1 --output other");
    sandbox.succeed("compare run other --output compare.html");
    for file in ["run/report.html", "compare.html"] {
        let html = fs::read_to_string(sandbox.path(file)).unwrap();
        let page = sandbox.path("measured.html");
        fs::write(&page, measured(&html)).unwrap();
        for width in [1280, 390] {
            let opened = browser.open(&page, width);
            assert_eq!(console(&opened.log), Vec::<&str>::new(), "{file}");
            assert_eq!(opened.asked, Vec::<String>::new(), "{file}");
            let tables = opened.dom.matches("<table class=\"sortable").count();
            let expected = format!("data-measured=\"over 0 sorted {tables}\"");
            assert!(
                opened.dom.contains(&expected),
                "{file} at {width}: expected {expected}"
            );
            let texts = opened.dom.split("data-texts=\"").nth(1).unwrap();
            let texts = texts.split('"').next().unwrap();
            let mut seen = vec!["epoch 1", "step ", "minute ", " lines"];
            if file == "run/report.html" {
                seen.push("; true"); // the dialog of a cell was open
            }
            for text in seen {
                assert!(texts.contains(text), "{file}: {text:?} in {texts:?}");
            }
        }
        let shot = browser.screenshot(&sandbox.path(file), 1280);
        assert_eq!(shot.width(), 1280);
        let first = shot.pixels()[0];
        assert!(
            shot.pixels().iter().any(|&pixel| pixel != first),
            "something is shown"
        );
        assert_eq!(browser.screenshot(&sandbox.path(file), 390).width(), 390);
    }
}
