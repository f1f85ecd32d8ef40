// How numbers are said.

const whole = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en-GB", { notation: "compact", maximumSignificantDigits: 3 });

export const count = (value) => whole.format(value);
export const brief = (value) => (Math.abs(value) < 10000 ? whole.format(value) : short.format(value));
export const plural = (value, one, many = `${one}s`) => `${count(value)} ${value === 1 ? one : many}`;
export const part = (value) => (value == null ? "–" : `${(100 * value).toFixed(value > 0 && value < 0.1 ? 1 : 0)}%`);

// Characters that turn text around, or show nothing, are written out: what is seen is all there is.
export const visible = (text) => text.replace(/(?![\n\t])[\p{Cc}\p{Cf}\p{Co}\p{Cn}\u2028\u2029]/gu,
  (character) => `\\u{${character.codePointAt(0).toString(16)}}`);

export function rate(value) {
  if (value == null) return "–";
  return value >= 100 || value === 0 ? brief(value) : String(Number(value.toPrecision(3)));
}

export function seconds(value) {
  if (value == null) return "–";
  if (value === 0) return "0";
  if (value < 0.001) return `${Number((value * 1e6).toPrecision(3))} µs`;
  if (value < 1) return `${Number((value * 1e3).toPrecision(3))} ms`;
  if (value < 120) return `${Number(value.toPrecision(3))} s`;
  return value < 7200 ? `${Math.round(value / 60)} min` : `${Math.round(value / 3600)} h`;
}
