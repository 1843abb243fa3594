// Whether anything of the page lies outside a narrow window, or is too small to read.
const wide = [...document.querySelectorAll("body *")].filter((one) => !one.closest(".wide, svg, #tip"));
return {
  width: innerWidth,
  needs: document.documentElement.scrollWidth,
  beyond: wide.filter((one) => one.getBoundingClientRect().right > innerWidth + 0.5).map((one) => one.outerHTML.slice(0, 80)),
  small: [...document.querySelectorAll("svg text, td, p, label")].filter((one) => one.getBoundingClientRect().width && parseFloat(getComputedStyle(one).fontSize) < 11).length,
  paper: getComputedStyle(document.body).backgroundColor,
  charts: [...document.querySelectorAll("#charts figure > svg")].map((one) => one.getBoundingClientRect().width),
};
