page.start({ buttons: ["coverage"] });
