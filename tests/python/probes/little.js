// What the page of a run that tells little leaves out.
return {
  off: [...document.querySelectorAll("button:disabled")].map((b) => b.dataset.value),
  title: document.title,
  dots: document.querySelectorAll("#charts .dot").length,
  writing: document.getElementById("writing").hidden,
  settings: document.getElementById("settings").hidden,
};
