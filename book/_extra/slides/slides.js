"use strict";
// Arrow keys, Page Up and Down and the space bar go from slide to slide; F fills the screen.
const slides = [...document.querySelectorAll(".slide")];
const steps = { ArrowRight: 1, ArrowDown: 1, PageDown: 1, " ": 1, ArrowLeft: -1, ArrowUp: -1, PageUp: -1 };

addEventListener("keydown", (event) => {
  if (event.target.closest("summary, a") && event.key === " ") return;
  if (event.key === "f") document.documentElement.requestFullscreen();
  const now = Math.round(scrollY / innerHeight);
  const next = slides[now + steps[event.key]];
  if (!next) return;
  event.preventDefault();
  next.scrollIntoView();
});

// What is too long for its slide is shown smaller; a tall figure has its caption at its side.
function fit() {
  for (const image of document.querySelectorAll("figure img")) {
    image.closest("figure").classList.toggle("tall", image.naturalWidth < 1.4 * image.naturalHeight);
  }
  for (const content of document.querySelectorAll(".content")) {
    // Smaller text breaks into other lines, so the size is tried rather than computed.
    const tooLong = () => content.scrollHeight > content.clientHeight || content.scrollWidth > content.clientWidth;
    for (let zoom = 1; zoom > 0.3; zoom -= 0.03) {
      content.style.zoom = zoom;
      if (!tooLong()) break;
    }
  }
}
addEventListener("resize", fit);
addEventListener("load", () => (window.MathJax?.startup?.promise ?? Promise.resolve()).then(fit));
