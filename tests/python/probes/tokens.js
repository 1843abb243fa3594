const tokens = [...document.querySelectorAll(".flow .t")];
return {
  width: document.documentElement.scrollWidth,
  tokens: tokens.length,
  smallest: Math.min(...tokens.map((token) => parseFloat(getComputedStyle(token.firstElementChild).fontSize))),
};
