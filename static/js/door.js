/* Opens the screen before the rest of the page is there. In the head of pages that bring a ticket, see `screen_ahead`.

A script of its own and no module: those wait until the page has been read. */

import { openAhead } from "./console/door.js";

window.casementAhead = openAhead();
