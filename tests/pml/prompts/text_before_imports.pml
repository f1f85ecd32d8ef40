<!-- text_before_imports.pml:4:3: <budget> after text; expected imports before the prompt's text -->
<prompt schema="trip">
  Go on.
  <budget/>
</prompt>
