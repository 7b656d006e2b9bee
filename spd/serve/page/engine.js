// The engine that the page uses. `python -m tools.page` puts the other one here.
export { Engine } from "./server.js";
