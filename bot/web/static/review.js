// Keys for the reviewer: Ctrl+Enter corrects; outside a text field a approves, r rejects, d gives back.
const form = document.getElementById("decision");
const press = (value) => form.querySelector(`button[value=${value}]`).click();
if (form) {
  document.addEventListener("keydown", (event) => {
    const writing = event.target.matches("textarea, input");
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); press("correct"); }
    if (writing || event.ctrlKey || event.metaKey || event.altKey) return;
    const verdict = { a: "approve", r: "reject", d: "release" }[event.key];
    if (verdict) press(verdict);
  });
}
