// The conversation: what was said, what is being said, and what people think of it.
import { el, icon, whenSent } from "./dom.js";
import { commentForm, ratingForm, thumbs } from "./ratings.js";
import { fill } from "./words.js";

const LONGEST = 4_000; // characters of a message
const FIRST = "00000000-0000-0000-0000-000000000000"; // a key before all others

export class Panel {
  onarrival = () => {};

  constructor(api, words, close) {
    this.api = api;
    this.words = words;
    this.names = { assistant: "…", business: "" };
    this.standing = { state: "bot", consent: "unknown" };
    this.latest = null; // key of the newest message shown from the history
    this.answers = []; // {id, verdict} of what can be rated
    this.shown = new Set(); // keys of the messages in the log
    this.busy = 0;
    this.missing = false; // an answer that is still to come, whose stream we lost
    this.left = api.pending(); // what was being asked when the page was left

    this.heading = el("h2", { id: "title" });
    this.subtitle = el("p", { class: "subtitle" });
    this.avatar = el("span", { class: "avatar", "aria-hidden": "true" });
    this.menu = el("div", { class: "menu", id: "menu", hidden: true });
    this.menuButton = el(
      "button", { type: "button", class: "plain", "aria-label": words.menu, "aria-expanded": "false", "aria-controls": "menu", onclick: () => this.#toggleMenu() },
      icon("more"),
    );
    this.log = el("div", { class: "log", role: "log", "aria-live": "off", "aria-label": words.log, tabindex: "0" });
    this.status = el("div", { class: "unseen", role: "status" });
    this.note = el("div", { class: "note", hidden: true });
    this.input = el("textarea", {
      id: "text", dir: "auto", rows: "1", maxlength: LONGEST, placeholder: words.placeholder, "aria-label": words.message, enterkeyhint: "send", autocomplete: "off",
      oninput: () => this.#grow(), onkeydown: (event) => this.#typed(event),
    });
    this.sendButton = el("button", { class: "send", "aria-label": words.send, disabled: true }, icon("send", true));
    this.form = el("form", { class: "say" }, this.input, this.sendButton);
    whenSent(this.form, () => this.#submit());
    this.main = el("div", { class: "main" }, this.log, this.note, this.form, el("p", { class: "machine" }, words.machine));
    this.element = el(
      "section", { class: "panel", role: close ? "dialog" : "region", "aria-labelledby": "title" },
      el(
        "header", {}, this.avatar, el("div", { class: "names" }, this.heading, this.subtitle), this.menuButton,
        close ? el("button", { type: "button", class: "plain", "aria-label": words.close, onclick: close }, icon("close")) : null,
      ),
      this.menu, this.main, this.status,
    );
    this.#name();
  }

  get waitsForNews() {
    return !this.busy && Boolean(this.latest) && (this.standing.state === "person" || this.missing);
  }

  // The history, once; then what was being asked when the page was left.
  load() {
    this.loading ??= this.#load().catch((error) => {
      this.loading = null;
      if (this.log.childElementCount) return;
      const note = this.#note(this.#reason(error));
      note.classList.add("unloaded");
      this.#offer(note, () => this.load());
    });
    return this.loading;
  }

  async #load() {
    const found = await this.api.history();
    this.names = found;
    this.#name();
    const unsent = this.log.querySelectorAll(".unsent");
    this.log.replaceChildren();
    this.shown.clear();
    this.answers = [];
    this.#line("bot").bubble.append(fill(this.words.hello, this.names));
    this.#take(found);
    this.log.append(...unsent);
    this.missing = found.waiting;
    const { left } = this;
    this.left = null;
    if (!left) return;
    const known = found.messages.some((message) => message.from === "visitor" && message.text === left.message);
    this.#ask(left.message, left.key, known || null);
  }

  // In another tab more may have been said.
  comeBack() {
    if (this.latest && !this.busy && document.visibilityState === "visible") this.refresh();
  }

  // What is new since the last look.
  async refresh() {
    const found = await this.api.history(this.latest).catch(() => null);
    if (!found || this.busy) return;
    const news = this.#take(found);
    this.missing = found.waiting;
    if (!this.missing) {
      this.#typing(false);
      for (const late of this.log.querySelectorAll(".late")) late.remove();
    }
    if (!news.length) return;
    this.status.textContent = "";
    for (const message of news) this.#announce(message.text);
    this.onarrival();
  }

  #take(found) {
    this.#stand(found);
    const unseen = found.messages.filter(({ key }) => !this.shown.has(key));
    const news = unseen.filter((message) => message.from !== "visitor" || !this.latest || !this.#isSaid(message.text));
    for (const message of news) this.#show(message);
    this.latest = found.messages.at(-1)?.key ?? this.latest;
    this.#offerConsent();
    return news.filter((message) => message.from !== "visitor");
  }

  #isSaid(text) {
    const own = [...this.log.querySelectorAll(".line.visitor .bubble")];
    return own.some((bubble) => bubble.textContent === text);
  }

  #name() {
    this.heading.textContent = fill(this.words.title, this.names);
    this.subtitle.textContent = this.names.business;
    this.avatar.textContent = this.names.assistant.slice(0, 1);
  }

  // Who answers now, and what the visitor allowed.
  #stand(standing) {
    this.standing = { state: standing.state ?? "bot", consent: standing.consent ?? "unknown" };
    const { state } = this.standing;
    this.note.hidden = state === "bot";
    this.note.replaceChildren(el("span", {}, state === "person" ? this.words.withPerson : state === "stopped" ? this.words.stopped : ""));
    if (state === "stopped") this.note.append(this.#chip(this.words.resume, this.words.resumeSay));
    if (state === "person") this.note.append(this.#chip(this.words.toBot, this.words.toBotSay));
  }

  #chip(label, said) {
    return el("button", { type: "button", class: "chip", onclick: () => this.say(said) }, label);
  }

  #line(kind) {
    const bubble = el("div", { class: "bubble", dir: "auto" });
    const name = kind === "visitor" ? this.words.you : kind === "person" ? this.words.person : fill(this.words.bot, this.names);
    const line = el("div", { class: `line ${kind}` }, el("span", { class: kind === "person" ? "name" : "unseen" }, `${name}: `), bubble);
    const atEnd = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 80;
    this.log.append(line);
    if (atEnd || kind === "visitor") this.#toEnd();
    return { line, bubble };
  }

  #toEnd() {
    this.log.scrollTop = this.log.scrollHeight;
  }

  #show(message, into) {
    const { line, bubble } = into ?? this.#line(message.from ?? (message.kind === "person" ? "person" : "bot"));
    bubble.classList.remove("coming");
    bubble.textContent = message.text;
    line.dataset.kind = message.kind;
    this.shown.add(message.key);
    if (message.id) {
      const answer = { id: message.id, verdict: message.verdict ?? null };
      this.answers.push(answer);
      line.append(thumbs(this.words, answer, (given) => this.#rate(line, answer, given)));
    }
    if (!into) this.#toEnd();
  }

  // Under the question itself, while it is the last thing that was said.
  #offerConsent() {
    for (const old of this.log.querySelectorAll(".consent")) old.remove();
    const last = this.log.lastElementChild;
    if (last?.dataset.kind !== "consent" || this.standing.consent !== "unknown") return;
    last.append(
      el("div", { class: "consent" }, this.#chip(this.words.yes, this.words.yesSay), this.#chip(this.words.no, this.words.noSay)),
    );
    this.#toEnd();
  }

  async #rate(line, answer, given) {
    await this.api.rate(answer.id, given);
    answer.verdict = given.verdict ?? null;
    line.querySelector(".why")?.remove();
    if (given.verdict === "down") {
      const form = commentForm(this.words, async (comment) => {
        await this.api.rate(answer.id, { comment });
        this.status.textContent = this.words.thanks;
      });
      line.append(form);
      form.scrollIntoView({ block: "nearest" });
      form.querySelector("textarea").focus({ preventScroll: true });
    } else if (given.verdict) this.status.textContent = this.words.thanks;
  }

  #typed(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    this.#submit();
  }

  #grow() {
    this.sendButton.disabled = !this.input.value.trim();
    this.input.style.height = "auto";
    this.input.style.height = `${Math.min(this.input.scrollHeight, 140)}px`;
  }

  #submit() {
    const text = this.input.value.trim();
    if (!text) return;
    this.input.value = "";
    this.#grow();
    this.say(text);
  }

  async say(text) {
    this.closeInner();
    await this.load();
    return this.#ask(text, crypto.randomUUID?.() ?? uuid());
  }

  // shown: the visitor's line where it is in the log already, or true.
  async #ask(text, key, shown = null) {
    for (const old of this.log.querySelectorAll(".consent, .why, .unloaded")) old.remove();
    const own = shown === true ? null : shown ?? this.#line("visitor");
    if (own && !shown) own.bubble.append(text);
    this.busy += 1;
    this.status.textContent = "";
    this.#typing(true);
    let coming = null;
    let pieces = "";
    try {
      for await (const { name, data } of this.api.say(text, key)) {
        if (name === "done") this.#stand(data);
        else if (this.shown.has(data.key)) { // it was in the history already
          coming?.line.remove();
          [coming, pieces] = [null, ""];
        } else {
          this.#typing(false);
          coming ??= this.#line("bot");
          if (name === "piece") {
            coming.bubble.classList.add("coming");
            coming.bubble.textContent = pieces = (pieces + data.text).replace(/^\s+/, "");
            this.#follow();
          } else {
            this.#show(data, coming);
            this.latest = data.key;
            this.#announce(data.text);
            [coming, pieces] = [null, ""];
            this.#follow();
          }
        }
      }
      coming?.line.remove(); // begun and not said: meanwhile a person took the conversation
      this.latest ??= FIRST;
      own?.line.classList.remove("unsent");
      if (!this.loading && this.busy === 1) this.load();
    } catch (error) {
      coming?.line.remove();
      this.#excuse(error, text, key, own);
    } finally {
      this.busy -= 1;
      this.#typing(this.busy > 0 || this.missing);
      this.#offerConsent();
    }
  }

  // A screen reader hears whole answers, not their pieces.
  #announce(text) {
    this.status.append(el("p", {}, text));
  }

  #follow() {
    if (this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 160) this.#toEnd();
  }

  // It was not stored: offer to send it again, with the same key. It was, and the answer is late: look for it.
  #excuse(error, text, key, own) {
    if (error.stored) {
      own?.line.classList.remove("unsent");
      this.missing = true;
      this.latest ??= FIRST;
      this.#note(this.words.late).classList.add("late");
      return;
    }
    const excuse = this.#note(`${this.words.failed} ${this.#reason(error)}`);
    excuse.classList.add("unsent");
    own?.line.classList.add("unsent");
    this.#offer(excuse, () => this.#ask(text, key, own ?? true));
    excuse.querySelector("button").focus();
  }

  #reason(error) {
    if (error.status === 429) return fill(this.words.slow, { seconds: error.retryAfter ?? 60 });
    return error.status === 0 ? this.words.offline : this.words.trouble;
  }

  // A button that tries again, under a note that it takes away.
  #offer(note, act) {
    note.append(el("button", { type: "button", class: "chip", onclick: () => { note.remove(); act(); } }, this.words.retry));
  }

  #note(text) {
    const note = el("div", { class: "excuse" }, el("span", {}, text));
    this.log.append(note);
    this.#toEnd();
    this.status.textContent = text;
    return note;
  }

  #typing(on) {
    this.log.querySelector(".typing")?.remove();
    if (!on) return;
    const dots = el("span", { class: "dots", "aria-hidden": "true" }, el("i"), el("i"), el("i"));
    this.log.append(el("div", { class: "line bot typing" }, el("div", { class: "bubble" }, dots, el("span", { class: "unseen" }, fill(this.words.typing, this.names)))));
    this.#toEnd();
  }

  // Closes the menu or the rating; false where neither was open.
  closeInner() {
    if (!this.menu.hidden) {
      this.#toggleMenu();
      return true;
    }
    if (!this.rating) return false;
    this.rating.remove();
    this.rating = null;
    this.main.hidden = false;
    this.input.focus();
    return true;
  }

  #toggleMenu() {
    const opens = this.menu.hidden;
    this.menu.hidden = !opens;
    this.menuButton.setAttribute("aria-expanded", String(opens));
    if (!opens) {
      this.menuButton.focus();
      return;
    }
    const { words } = this;
    const choices = [
      this.standing.state === "bot" && [words.askPerson, () => this.say(words.askPersonSay)],
      this.answers.length && [words.rate, () => this.#rateAll()],
      this.standing.consent !== "denied" && [words.noTraining, () => this.say(words.noTrainingSay)],
      this.standing.state === "stopped" ? [words.resume, () => this.say(words.resumeSay)] : [words.stop, () => this.say(words.stopSay)],
      [words.forget, () => this.#forget()],
    ].filter(Boolean);
    this.menu.replaceChildren(
      ...choices.map(([label, act]) => el("button", { type: "button", onclick: () => { this.menu.hidden = true; this.menuButton.setAttribute("aria-expanded", "false"); act(); } }, label)),
    );
    this.menu.firstElementChild.focus();
  }

  // Stars for the conversation: of the last answer that has no thumb, so that they take no thumb's place.
  #rateAll() {
    const about = this.answers.findLast((answer) => !answer.verdict) ?? this.answers.at(-1);
    this.rating = ratingForm(this.words, (given) => this.api.rate(about.id, given), () => this.closeInner());
    this.main.hidden = true;
    this.element.append(this.rating);
    this.rating.querySelector("input").focus();
  }

  async #forget() {
    await this.api.forget().catch(() => {});
    this.answers = [];
    this.latest = this.loading = null;
    this.missing = false;
    await this.load();
    this.input.focus();
  }
}

// Pages without HTTPS have no crypto.randomUUID.
function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
