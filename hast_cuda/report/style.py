"""How a page looks: on a phone, on a desk, on paper, by day and by night."""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark;--ink:#1c2125;--soft:#59636b;--paper:#fdfdfe;--line:#d5dade;
--shade:#f1f3f5;--bar:#3b7dd8;--warn:#8a4b00;--warn-shade:#fff3df}
@media(prefers-color-scheme:dark){:root{--ink:#e4e8eb;--soft:#9aa5ad;--paper:#14181b;
--line:#343c42;--shade:#1d2327;--bar:#5b95e5;--warn:#ffc877;--warn-shade:#33270f}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);
font:1rem/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:66rem;margin:0 auto;padding:1.5rem 1rem 4rem;overflow-x:clip}
h1{font-size:clamp(1.5rem,5vw,2.1rem);line-height:1.2;margin:.5rem 0 1rem}
h2{font-size:1.25rem;line-height:1.3;margin:2.8rem 0 .8rem;padding-top:.9rem;
border-top:1px solid var(--line)}
h1,p,dd,figcaption{overflow-wrap:anywhere}
p{max-width:44rem;margin:.7rem 0}
.warn{padding:.6rem .9rem;border-left:4px solid var(--warn);background:var(--warn-shade);
color:var(--warn)}
dl{margin:1rem 0}dd{margin:0}
.facts{display:grid;grid-template-columns:minmax(7rem,max-content) 1fr;gap:.3rem 1.2rem;
max-width:50rem}
.facts dt,.figures dt,figcaption{color:var(--soft)}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.7rem}
.figures div{background:var(--shade);border-radius:.5rem;padding:.6rem .9rem}
.figures dt{font-size:.85rem;line-height:1.3}
.figures dd{font-size:1.45rem;font-weight:600;font-variant-numeric:tabular-nums}
.figures dd+dd{font-size:.85rem;font-weight:400;color:var(--soft)}
h1+p{font-size:1.1rem}
nav{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;margin:1.2rem 0 0;font-size:.9rem}
a{color:var(--bar)}
.sort{border:0;margin:1rem 0 0;padding:0;display:flex;flex-wrap:wrap;gap:.2rem 1rem;font-size:.9rem}
.sort legend{float:left;padding:0 1rem 0 0;color:var(--soft)}.sort+.scroll{margin-top:.3rem}
@supports (grid-template-columns:subgrid) and selector(:has(a)){
.sorted table{display:grid;grid-template-columns:repeat(var(--columns),auto)}
.sorted :is(thead,tbody){display:contents}
.sorted tr{display:grid;grid-column:1/-1;grid-template-columns:subgrid}.sorted thead tr{order:-1}
.sort:has([value="1"]:checked)+.sorted tbody tr{order:var(--o1)}
.sort:has([value="2"]:checked)+.sorted tbody tr{order:var(--o2)}}
.scroll{overflow-x:auto;margin:1rem 0;max-width:max-content;width:100%;background:
linear-gradient(to right,var(--paper) 40%,transparent) 0 0/2rem 100% no-repeat local,
linear-gradient(to left,var(--paper) 40%,transparent) 100% 0/2rem 100% no-repeat local,
linear-gradient(to right,var(--line),transparent) 0 0/.7rem 100% no-repeat scroll,
linear-gradient(to left,var(--line),transparent) 100% 0/.7rem 100% no-repeat scroll}
table{border-collapse:collapse;font-size:.9rem;line-height:1.4}
th,td{padding:.32rem .8rem;text-align:left;vertical-align:top;
border-bottom:1px solid var(--line)}
th{color:var(--soft);font-weight:600;border-bottom:2px solid var(--line)}
th:first-child,td:first-child{padding-left:.2rem}
td{max-width:24rem;overflow-wrap:break-word}td.number{white-space:nowrap}
.number{text-align:right;font-variant-numeric:tabular-nums}
.bar{display:inline-block;vertical-align:middle;width:5rem;height:.55rem;margin-left:.7rem;
background:var(--shade);border-radius:.2rem;overflow:hidden}
.bar.none{visibility:hidden}
.bar i{display:block;height:100%;background:var(--bar)}
pre{white-space:pre-wrap;overflow-wrap:anywhere;padding:.8rem 1rem;border-radius:.5rem;
background:var(--shade);font:.85rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.pictures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,19rem),1fr));
gap:1.2rem;margin:1rem 0}
figure{margin:0;min-width:0}
.pictures figure{max-width:32rem}.pictures img{display:block;max-width:100%}
svg{display:block;width:100%;height:auto;overflow:visible}
svg *{stroke-linejoin:round;stroke-linecap:butt}
svg text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif!important}
figcaption{font-size:.85rem}
.sheet{display:grid;grid-template-columns:repeat(auto-fill,minmax(3.6rem,1fr));gap:.7rem;
margin:1rem 0}
.sheet img{display:block;width:100%;image-rendering:pixelated;border-radius:.2rem}
.sheet figcaption{text-align:center;font-variant-numeric:tabular-nums}
:focus-visible{outline:2px solid var(--bar);outline-offset:2px}
@media(min-width:40rem){td:first-child{white-space:nowrap}}
@media(max-width:40rem){th,td{padding:.32rem .5rem}.bar{width:3rem}.scroll{background:none}
th:first-child,td:first-child{position:sticky;left:0;background:var(--paper);max-width:9rem}
td:first-child{min-width:4rem;overflow-wrap:anywhere}}
@media print{:root{color-scheme:light;--ink:#000;--soft:#444;--paper:#fff;--line:#bbb;
--shade:#f1f3f5;--bar:#3b7dd8;--warn:#8a4b00;--warn-shade:#fff3df}
@page{margin:16mm}
body{font-size:10pt}main{max-width:none;padding:0}
h2{break-after:avoid;margin-top:1.6rem}
figure,tr,.figures,.warn{break-inside:avoid}thead{display:table-header-group}
.scroll{overflow:visible;width:auto;max-width:none;background:none}.bar{width:3rem}nav,.sort{display:none}
table{font-size:8pt;max-width:100%}th,td{padding:.2rem .35rem}
td,td.number{white-space:normal;overflow-wrap:anywhere}
.pictures{grid-template-columns:1fr 1fr}.sheet{grid-template-columns:repeat(10,1fr)}
.bar,.figures div{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
""".strip()
