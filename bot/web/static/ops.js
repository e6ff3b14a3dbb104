// Refresh what is shown every five seconds, without losing the place or open details.
setInterval(async () => {
  if (document.hidden || document.querySelector("details[open]")) return;
  const answer = await fetch(location.pathname);
  if (!answer.ok || answer.redirected) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  document.querySelector("main").replaceWith(fresh.querySelector("main"));
  document.querySelector("header").replaceWith(fresh.querySelector("header"));
}, 5000);
