// What people think: thumbs under an answer, a comment after a thumb down, stars for the whole.
import { el, icon, whenSent } from "./dom.js";

export function thumbs(words, answer, rate) {
  const button = (verdict, label) => el(
    "button", { type: "button", class: "thumb", "aria-label": label, title: label, "aria-pressed": String(answer.verdict === verdict), "data-verdict": verdict },
    icon(verdict),
  );
  const both = [button("up", words.up), button("down", words.down)];
  for (const each of both) {
    each.addEventListener("click", async () => {
      const { verdict } = each.dataset;
      const given = answer.verdict === verdict ? { remove: true } : { verdict };
      await rate(given).catch(() => {});
      for (const other of both) other.setAttribute("aria-pressed", String(answer.verdict === other.dataset.verdict));
    });
  }
  return el("div", { class: "thumbs" }, ...both);
}

export function commentForm(words, send) {
  const text = el("textarea", { dir: "auto", rows: "2", maxlength: "2000", "aria-label": words.why, placeholder: words.whyPlaceholder });
  const skip = el("button", { type: "button", class: "quiet" }, words.skip);
  const form = el("form", { class: "why" }, text, el("div", { class: "row" }, skip, el("button", { class: "chip" }, words.comment)));
  skip.addEventListener("click", () => form.remove());
  whenSent(form, async () => {
    const comment = text.value.trim();
    if (comment) await send(comment).catch(() => {});
    form.replaceChildren(el("span", { class: "thanks" }, words.thanks));
  });
  return form;
}

export function ratingForm(words, send, back) {
  const stars = words.stars.map((label, at) => {
    const input = el("input", { type: "radio", name: "stars", id: `star${at + 1}`, value: String(at + 1), class: "unseen", required: true });
    return [input, el("label", { for: `star${at + 1}`, title: label }, el("span", { class: "unseen" }, label), el("span", { "aria-hidden": "true" }, "★"))];
  });
  const comment = el("textarea", { dir: "auto", rows: "3", maxlength: "2000", "aria-label": words.rateComment, placeholder: words.rateComment });
  const form = el(
    "form", { class: "rating" },
    el("fieldset", { class: "stars" }, el("legend", {}, words.rateTitle), ...stars.flat()), comment,
    el("button", { class: "primary" }, words.rateSend), el("button", { type: "button", class: "quiet", onclick: back }, words.back),
  );
  // Stars up to the chosen one are lit.
  form.addEventListener("change", () => {
    const chosen = Number(form.stars.value);
    stars.forEach(([, label], at) => label.classList.toggle("lit", at < chosen));
  });
  whenSent(form, async () => {
    const text = comment.value.trim();
    try {
      await send({ stars: Number(form.stars.value), ...(text && { comment: text }) });
    } catch (error) {
      form.querySelector("[role=alert]")?.remove();
      form.append(el("p", { role: "alert" }, error.message));
      return;
    }
    const done = el("button", { type: "button", class: "primary", onclick: back }, words.back);
    form.replaceChildren(el("p", { class: "thanks big", role: "status" }, words.rateThanks), done);
    done.focus();
  });
  return form;
}
