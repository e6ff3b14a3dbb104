// Elements from code: text goes in as text, never as HTML.
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

// What a form is for. In a frame that a site sandboxed no form may be submitted: there its button's click is all there is.
export function whenSent(form, act) {
  form.addEventListener("click", (event) => {
    if (event.target.closest("button")?.type !== "submit") return;
    event.preventDefault();
    if (form.reportValidity()) act();
  });
}

const SHAPES = {
  chat: "M12 3C6.5 3 2 6.8 2 11.5c0 2.6 1.4 5 3.6 6.5L5 21.5l4.2-2.1c.9.2 1.8.3 2.8.3 5.5 0 10-3.7 10-8.2S17.5 3 12 3z",
  close: "M6 6l12 12M18 6L6 18",
  send: "M4 12l16-8-6 16-3-7z",
  more: "M12 5.5h.01M12 12h.01M12 18.5h.01",
  up: "M7 10v10H4V10zM7 10l4.5-7c1.6 0 2.3 1.2 2 2.7L12.900 9H19c1.300 0 2.200 1.200 1.900 2.400l-1.600 7c-.2 1-1 1.600-2 1.600H7",
  down: "M17 14V4h3v10zM17 14l-4.500 7c-1.600 0-2.300-1.200-2-2.700l.600-3.300H5c-1.300 0-2.200-1.200-1.900-2.400l1.600-7c.2-1 1-1.600 2-1.600H17",
};

export function icon(name, solid = false) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", solid ? "icon solid" : "icon");
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", SHAPES[name]);
  svg.append(path);
  return svg;
}
