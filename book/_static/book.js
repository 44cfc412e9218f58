// What the theme leaves undone, on every page.

// Beside each result, the search page shows an excerpt that it fetches from the page found. A browser
// refuses to fetch where the book was opened from a folder: there, results are titles only.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

document.addEventListener("DOMContentLoaded", () => {
  // The foot of every page is the same text, with a link that is right for pages at the top.
  const root = document.documentElement.dataset.content_root;
  for (const index of document.querySelectorAll('footer a[href="genindex.html"]')) index.href = `${root}genindex.html`;
  // A screen reader says what an arrow of the contents unfolds.
  for (const arrow of document.querySelectorAll(".bd-links summary")) {
    const chapter = arrow.closest("li").querySelector("a").textContent.trim();
    arrow.setAttribute("aria-label", `Pages of ${chapter}`);
  }
  // The works in a list are its items.
  for (const work of document.querySelectorAll(".citation-list > .citation")) {
    work.setAttribute("role", "listitem");
  }
});

// The theme lets the Tab key reach code that scrolls. It looks for such code when a page loads or changes its
// width; code in a solution can scroll only once it is unfolded.
document.addEventListener("click", ({ target }) => {
  if (target.closest(".toggle-button, summary")) dispatchEvent(new Event("resize"));
});
