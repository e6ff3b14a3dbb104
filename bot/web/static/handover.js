// Show what the customer writes while an answer is being written; the answer itself is never touched.
const bottom = () => scrollTo(0, document.body.scrollHeight);
bottom();
document.querySelector("textarea")?.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) document.querySelector("button[value=reply]").click();
});
setInterval(async () => {
  if (document.hidden) return;
  const answer = await fetch(location.pathname).catch(() => null);
  if (!answer?.ok || answer.redirected) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const id of ["who", "talk"]) {
    const old = document.getElementById(id), now = fresh.getElementById(id);
    if (now && old.textContent !== now.textContent) {
      old.replaceWith(now);
      bottom();
    }
  }
}, 3000);
