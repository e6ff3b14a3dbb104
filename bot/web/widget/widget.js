// <script src="https://HOST/widget.js"> puts the chat on any page. All the rest is loaded from where this came from.
(() => {
  const tag = document.currentScript;
  if (document.querySelector("[data-npllm-chat]")) return;
  import(new URL("/widget/main.js", tag.src).href)
    .then(({ start }) => start(new URL(tag.src).origin, { ...tag.dataset }))
    .catch((error) => console.error("The chat could not be loaded:", error));
})();
