// The launcher and the panel: on another site as a button in a corner, on our own page as the page itself.
import { Api } from "./api.js";
import { el, icon } from "./dom.js";
import { Panel } from "./panel.js";
import { wordsFor } from "./words.js";

const POLL = 4_000; // milliseconds between looks while a person answers
const CLOSED = 5; // a closed panel skips all but every fifth
const PHONE = matchMedia("(max-width: 520px), (max-height: 460px)");

// options: lang, color, position (left, right), theme (light, dark), open, page.
export async function start(base, options) {
  const words = wordsFor(options.lang);
  const isPage = "page" in options;
  const host = el("div", { "data-npllm-chat": "", lang: words.language === "pt" ? "pt-BR" : "en" });
  const root = host.attachShadow({ mode: "open" });
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(await (await fetch(`${base}/widget/style.css`, { credentials: "omit" })).text());
  root.adoptedStyleSheets = [sheet];
  if (options.color && CSS.supports("color", options.color)) host.style.setProperty("--accent", options.color);
  host.dataset.position = options.position === "left" ? "left" : "right";
  if (options.theme) host.dataset.theme = options.theme;
  if (isPage) host.dataset.page = "";
  document.body.append(host);

  const panel = new Panel(new Api(base), words, isPage ? null : close);
  document.addEventListener("visibilitychange", () => panel.comeBack());
  if (isPage) {
    root.append(panel.element);
    panel.load();
    panel.input.focus();
    look();
    return;
  }

  const badge = el("span", { class: "badge", hidden: true });
  const launcher = el(
    "button", { type: "button", class: "launcher", "aria-label": words.open, "aria-haspopup": "dialog", "aria-expanded": "false", onclick: () => (panel.element.hidden ? open() : close()) },
    icon("chat", true), badge,
  );
  panel.element.hidden = true;
  root.append(panel.element, launcher);
  panel.element.addEventListener("keydown", keepFocus);
  panel.onarrival = () => {
    if (!panel.element.hidden) return;
    badge.hidden = false;
    launcher.setAttribute("aria-label", `${words.open}. ${words.unread}`);
  };
  visualViewport?.addEventListener("resize", fit);
  visualViewport?.addEventListener("scroll", fit);
  if ("open" in options) open();
  look();

  function open() {
    panel.element.hidden = false;
    launcher.hidden = PHONE.matches;
    launcher.setAttribute("aria-expanded", "true");
    launcher.setAttribute("aria-label", words.close);
    badge.hidden = true;
    panel.element.setAttribute("aria-modal", String(PHONE.matches));
    fit();
    panel.load();
    panel.input.focus();
  }

  function close() {
    panel.element.hidden = true;
    launcher.hidden = false;
    launcher.setAttribute("aria-expanded", "false");
    launcher.setAttribute("aria-label", words.open);
    launcher.focus();
  }

  // On a phone the panel is as large as what the keyboard leaves of the screen.
  function fit() {
    const seen = visualViewport;
    const full = PHONE.matches && seen && !panel.element.hidden;
    panel.element.style.setProperty("--seen-height", full ? `${seen.height}px` : null);
    panel.element.style.setProperty("--seen-top", full ? `${seen.offsetTop}px` : null);
  }

  // Tab stays in the open panel; Escape closes what was opened last.
  function keepFocus(event) {
    if (event.key === "Escape") {
      event.stopPropagation();
      if (!panel.closeInner()) close();
    }
    if (event.key !== "Tab") return;
    const stops = [...panel.element.querySelectorAll("button, textarea, input, [tabindex='0']")]
      .filter((stop) => !stop.disabled && stop.offsetParent !== null && (stop.type !== "radio" || stop.checked || !stop.form.stars.value));
    const at = root.activeElement;
    const edge = event.shiftKey ? stops[0] : stops.at(-1);
    if (at !== edge) return;
    event.preventDefault();
    (event.shiftKey ? stops.at(-1) : stops[0]).focus();
  }

  // A person's answer comes when it comes: it is looked for while one is waited for.
  function look(turn = 1) {
    setTimeout(async () => {
      const due = !panel.element.hidden || turn % CLOSED === 0;
      if (due && panel.waitsForNews && document.visibilityState === "visible") await panel.refresh();
      look(turn + 1);
    }, POLL);
  }
}

