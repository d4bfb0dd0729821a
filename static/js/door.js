/* Opens the screen before the rest of the page is there. In the head of pages that bring a ticket, see `screen_ahead`. */

import { openAhead } from "./console/door.js";

openAhead();
