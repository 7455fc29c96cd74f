page.start({ buttons: ["difference", "evidence", "means", "shares"] });
