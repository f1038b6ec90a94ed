// plotly.js sets some styles with setAttribute("style", ...), which a strict content-security policy refuses. The same
// text given to the style object is allowed. Nothing else changes.
"use strict";
{
  const plain = Element.prototype.setAttribute;
  Element.prototype.setAttribute = function setAttribute(name, value) {
    if (name === "style" && this.style) this.style.cssText = value;
    else plain.call(this, name, value);
  };
}
