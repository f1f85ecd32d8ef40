<prompt schema="travel" max_tokens="48">
  <trip duration="three days" travellers="a family of four">
    <miami/>
  </trip>
  <low_budget/>

  Where do they go on the first morning?
</prompt>
