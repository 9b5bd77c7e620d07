"""How a report.html looks and answers to hover, focus and tap: one style sheet, one script."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light; --ink: #1d2330; --soft: #5a6272; --rule: #e4e1db; --paper: #fbfaf7;
  --card: #ffffff; --yes: #1b7a4b; --no: #b3262f; --open: #8a6100; --blue: #2b5c9e; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main, header, footer { max-width: 1400px; margin: 0 auto; padding: 0 32px; }
header { padding-top: 28px; }
h1 { font-size: 1.75rem; line-height: 1.25; font-weight: 650; margin: 0; letter-spacing: -.01em; }
h2 { font-size: 1.2rem; font-weight: 650; margin: 0 0 6px; }
h3 { font-size: .95rem; font-weight: 600; margin: 0 0 4px; }
p { margin: 0 0 12px; max-width: 76ch; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
.subtitle { color: var(--soft); margin: 4px 0 0; }
.caution { border-left: 3px solid var(--no); padding: 2px 0 2px 12px; margin: 14px 0 22px;
  font-size: .92rem; max-width: none; }
section { margin: 0 0 44px; }
code { font: .86em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  overflow-wrap: anywhere; }

.reading { display: grid; grid-template-columns: minmax(0, 2.05fr) minmax(0, 1fr); gap: 32px;
  align-items: start; }
.ecg { position: relative; margin: 0; background: var(--card); border: 1px solid var(--rule);
  border-radius: 8px; overflow: hidden; box-shadow: 0 1px 3px rgb(29 35 48 / .06); }
.ecg img { display: block; width: 100%; height: auto; }
.lead { position: absolute; border-radius: 4px; border: 2px solid transparent;
  transition: background-color .15s, border-color .15s; pointer-events: none; }
.lighting .lead { background: rgb(255 255 255 / .68); }
.lighting .lead.lit { background: transparent; border-color: var(--tone); }
.supported { --tone: var(--yes); } .contradicted { --tone: var(--no); }
.unverifiable { --tone: var(--open); }
.question { color: var(--soft); font-size: .92rem; margin-bottom: 8px; }
.answer { font-size: 1.14rem; line-height: 1.85; white-space: pre-line; margin-bottom: 16px; }
.claim { cursor: help; border-radius: 3px; text-decoration-line: underline;
  text-decoration-color: var(--tone); text-decoration-thickness: 2px;
  text-underline-offset: 4px; text-decoration-skip-ink: none; }
.supported.claim, .supported.key { text-decoration-style: solid; }
.contradicted.claim, .contradicted.key { text-decoration-style: wavy;
  text-decoration-thickness: 1.5px; }
.unverifiable.claim, .unverifiable.key { text-decoration-style: dotted; }
.claim:hover, .claim.on { background: color-mix(in srgb, var(--tone) 11%, transparent); }
.claim:focus-visible { outline: 2px solid var(--tone); outline-offset: 2px; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 18px; padding: 0;
  margin: 0 0 10px; font-size: .9rem; }
.key { text-decoration-line: underline; text-decoration-color: var(--tone);
  text-decoration-thickness: 2px; text-underline-offset: 4px; }
.mark { color: var(--tone); font-weight: 700; }
.cards { display: grid; gap: 10px; margin-bottom: 14px; }
.card { background: var(--card); border: 1px solid var(--rule); border-top: 3px solid var(--tone);
  border-radius: 6px; padding: 10px 14px; font-size: .9rem; line-height: 1.45; }
.card dl { display: grid; grid-template-columns: auto 1fr; gap: 1px 12px; margin: 4px 0 0; }
.card dt { color: var(--soft); } .card dd { margin: 0; overflow-wrap: anywhere; }
.card .one + .one { border-top: 1px solid var(--rule); margin-top: 8px; padding-top: 8px; }
/* The card of the claim in hand follows the answer, or stays at the lower edge of the screen. */
.js .cards { display: block; position: sticky; bottom: 10px; z-index: 4; pointer-events: none; }
.js .card { display: none; }
.js .card.on { display: block; margin-bottom: 16px;
  box-shadow: 0 4px 18px rgb(29 35 48 / .13); }

.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(290px, 1fr)); gap: 20px; }
.curves figure { margin: 0; background: var(--card); border: 1px solid var(--rule);
  border-radius: 8px; padding: 12px 14px 8px; max-width: 680px; }
svg { display: block; width: 100%; height: auto; font: 12px system-ui, sans-serif; }
svg text { fill: var(--soft); }
.axis { stroke: #b9b5ac; fill: none; } .line { fill: none; stroke-linejoin: round; }

table { border-collapse: collapse; width: 100%; font-size: .93rem; background: var(--card);
  border: 1px solid var(--rule); border-radius: 8px; }
th, td { text-align: right; padding: 8px 12px; border-bottom: 1px solid var(--rule);
  font-variant-numeric: tabular-nums; }
th:first-child, td:first-child, th.words, td.words { text-align: left; }
thead th { color: var(--soft); font-weight: 600; font-size: .84rem; vertical-align: bottom; }
tbody th { font-weight: 600; } tbody tr:last-child > * { border-bottom: 0; }
td svg { width: 110px; display: inline-block; vertical-align: middle; }
.better { color: var(--yes); font-weight: 600; } .worse { color: var(--no); font-weight: 600; }
.files td { text-align: left; } .scroll { overflow-x: auto; }

@media (max-width: 900px) {
  main, header, footer { padding-left: 16px; padding-right: 16px; }
  .reading { display: block; }
  .ecg { position: sticky; top: 0; z-index: 3; margin: 0 -16px 16px; border-radius: 0;
    border-left: 0; border-right: 0; }
  .answer { font-size: 1.08rem; }
}
@media (max-width: 700px) {
  h1 { font-size: 1.4rem; }
  table, tbody, tr, td, tbody th { display: block; width: 100%; }
  table { border: 0; background: none; }
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  tr { background: var(--card); border: 1px solid var(--rule); border-radius: 8px;
    padding: 8px 0; margin-bottom: 12px; }
  td, tbody th, tbody tr:last-child > * { border: 0; padding: 3px 14px; text-align: left; }
  td[data-label] { display: flex; justify-content: space-between; gap: 14px; text-align: right; }
  td[data-label]::before { content: attr(data-label); color: var(--soft); text-align: left; }
}
@media (prefers-reduced-motion: reduce) { .lead { transition: none; } }
@media print {
  body { background: #fff; font-size: 11pt; }
  main, header, footer { max-width: none; padding: 0; }
  .reading { display: block; } .ecg { position: relative; margin: 0 0 12px; box-shadow: none; }
  .lighting .lead, .lighting .lead.lit { background: none; border-color: transparent; }
  .js .cards { display: grid; grid-template-columns: 1fr 1fr; position: static; }
  .js .card, .js .card.on { display: block; margin: 0; box-shadow: none; }
  .hint { display: none; }
  figure, .card, tr { break-inside: avoid; } h2 { break-after: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""

# A claim is shown while the pointer is over it; one that was tapped or tabbed to, until it is left.
SCRIPT = """
document.documentElement.classList.add('js');
document.querySelectorAll('.reading').forEach(function (reading) {
  var ecg = reading.querySelector('.ecg'), kept = null;
  function hide() {
    reading.querySelectorAll('.on, .lit').forEach(function (element) {
      element.classList.remove('on', 'lit');
    });
    ecg.classList.remove('lighting', 'supported', 'contradicted', 'unverifiable');
  }
  function show(claim) {
    hide();
    claim.classList.add('on');
    document.getElementById(claim.getAttribute('aria-describedby')).classList.add('on');
    claim.dataset.panels.split(' ').filter(Boolean).forEach(function (name) {
      ecg.querySelector('[data-lead="' + name + '"]').classList.add('lit');
      ecg.classList.add('lighting', claim.dataset.verdict);
    });
  }
  function release() { kept = null; hide(); }
  reading.querySelectorAll('.claim').forEach(function (claim) {
    claim.addEventListener('mouseenter', function () { show(claim); });
    claim.addEventListener('mouseleave', function () { if (kept) show(kept); else hide(); });
    claim.addEventListener('focus', function () { kept = claim; show(claim); });
    claim.addEventListener('blur', release);
    claim.addEventListener('click', function () {
      claim.focus();
      // Where the page stays above the answer, it is moved up: the card would hide the answer.
      if (getComputedStyle(ecg).position === 'sticky') ecg.scrollIntoView({ block: 'start' });
    });
  });
  document.addEventListener('keydown', function (event) {
    if (event.key === 'Escape') release();
  });
});
"""
