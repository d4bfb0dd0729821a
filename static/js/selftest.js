/* The page that tries the way to a screen step by step. Entry point; the measuring is in console/way.js. */

import { selftest } from "./console/selftestpage.js";

document.querySelectorAll("[data-selftest]").forEach(selftest);
